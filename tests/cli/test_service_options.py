"""The options that `attach` and `share` have in common reach what serves applications."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from cardferry.app.runtime.service import Service
from cardferry.cli import attach, guest, host, share
from cardferry.cli.options import service_options
from cardferry.manager.status import SlotStatus


def parsed(*arguments: str) -> Service:
    """What a command with these options gets."""
    got: list[Service] = []

    @click.command()
    @service_options
    def command(*, service: Service) -> None:
        got.append(service)

    result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    if result.exit_code:
        raise click.UsageError(result.output)
    return got[0]


def test_defaults_are_upstreams_sizes_and_all_readers() -> None:
    assert parsed() == Service()
    assert (Service().slots, Service().name_size, Service().readers) == (16, 128, ())


def test_how_long_the_card_may_be_held() -> None:
    settings = parsed("--max-idle", "3", "--max-hold", "7").settings
    assert (settings.max_idle, settings.max_hold) == (3, 7)


def test_sizes() -> None:
    service = parsed("--reader-slots", "48", "--old-names")
    assert (service.slots, service.name_size) == (48, 100)


def test_readers_keep_their_order() -> None:
    assert parsed("--reader", "Z*", "--reader", "A*").readers == ("Z*", "A*")


@pytest.mark.parametrize("number", ["0", "-1", "1025", "many"])
def test_impossible_number_of_slots(number: str) -> None:
    with pytest.raises(click.UsageError, match="--reader-slots"):
        parsed("--reader-slots", number)


@pytest.mark.parametrize(
    ("command", "option"),
    [(command, "--grace") for command in (attach.command, share.command, host.command, guest.command)]
    + [
        (command, option)
        for command in (attach.command, share.command, host.command)
        for option in ("--max-idle", "--max-hold")
    ]
    + [(host.command, "--idle")],
)
@pytest.mark.parametrize("seconds", ["nan", "inf", "-1", "1e300", "long"])
def test_what_is_no_time_is_wrong_usage(command: click.Command, option: str, seconds: str) -> None:
    result = CliRunner().invoke(command, [option, seconds])
    assert result.exit_code == 2
    assert f"Invalid value for '{option}'" in result.output


def test_status_shows_what_programs_see_in_their_order() -> None:
    slots = [
        SlotStatus(name, "", "", "", 0, 0, [], None, "", 0.0, []) for name in ("A 00 00", "Hidden 00 00", "Z 00 00")
    ]
    assert [slot.reader for slot in parsed("--reader", "Z*", "--reader", "A*").offered(slots)] == ["Z 00 00", "A 00 00"]
    assert parsed().offered(slots) == slots
