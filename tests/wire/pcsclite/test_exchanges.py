"""The table of messages says what is so: its names are those that the values are made of."""

from __future__ import annotations

import inspect

import pytest

from cardferry.wire.pcsclite import messages as m
from cardferry.wire.pcsclite.exchanges import MADE, Row, exchanges, rows
from cardferry.wire.pcsclite.layout import Command

each_row = pytest.mark.parametrize("row", rows(128), ids=lambda row: f"{row.request.__name__} {row.fields}")


def test_every_command_and_every_request_is_in_the_table() -> None:
    assert {row.command for row in rows(128)} == set(Command)
    assert {row.request for row in rows(128)} == set(m.Request.__args__)


@each_row
def test_fields_have_the_names_of_what_is_made_of_them(row: Row) -> None:
    """A value that is made of other fields than the table says would be read from the wrong place."""
    for kind, names in ((row.request, row.asked), (row.reply, row.answered)):
        if kind is not None and names:
            parameters = inspect.signature(MADE.get(kind, kind)).parameters
            assert all(parameter in ("_", name) for parameter, name in zip(parameters, names.split(), strict=True)), (
                parameters
            )


def test_sizes_do_not_depend_on_the_byte_order() -> None:
    assert exchanges("little", 128).by_header.keys() == exchanges("big", 128).by_header.keys()
