from __future__ import annotations

from pathlib import Path

from bench.figures import Figures
from bench.goals import GOALS, verdicts
from bench.metrics import Distance
from bench.plot import plot
from bench.report import tables
from bench.results import Results, load


def results(apdu: float = 0.0002, listing: float = 0.05) -> Results:
    """A run in which ssh needs 0.2 ms for an APDU and 1 s for a list, attach what is given."""
    return Results(
        "2-core virtual machine",
        {"OpenSSH": "9.2"},
        False,
        95,
        94,
        {
            (Distance.NEAR, "apdu", "ssh"): Figures(100, 0.0002, 0.044, 0.0001, 0.05),
            (Distance.NEAR, "apdu", "attach"): Figures(100, apdu, 0.001, 0.0001, 0.002),
            (Distance.NEAR, "list", "ssh"): Figures.of([1.0]),
            (Distance.NEAR, "list", "attach"): Figures.of([listing]),
        },
    )


def met(given: Results) -> dict[str, bool]:
    return {f"{verdict.goal.metric} {verdict.goal.figure}": verdict.met for verdict in verdicts(given)}


def test_goals_are_met_or_not_by_the_ratio_to_plain_ssh() -> None:
    assert met(results()) == {"apdu p50": True, "apdu p99": True, "list p50": True}
    assert met(results(apdu=0.000_24))["apdu p50"]
    assert not met(results(apdu=0.000_26))["apdu p50"]
    assert not met(results(listing=0.11))["list p50"]


def test_what_was_not_measured_has_no_verdict() -> None:
    nothing = Results("", {}, True, 0, 0, {})
    assert verdicts(nothing) == []
    assert nothing.ratio(Distance.FAR, "apdu", "share") is None
    assert tables(nothing) == []
    assert GOALS


def test_results_survive_their_file(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    results().save(path)
    assert load(path) == results()


def test_tables_show_durations_and_ratios() -> None:
    near, goals = tables(results())
    assert near.headings == ["", "ssh -N -L", "attach"]
    assert [list(row) for row in near.rows] == [
        ["one APDU, p50", "200 µs", "200 µs (1.00x)"],
        ["one APDU, p99", "44.0 ms", "1.00 ms (0.023x)"],
        ["`pkcs11-tool -L`, p50", "1.00 s", "50.0 ms (0.050x)"],
        ["`pkcs11-tool -L`, longest", "1.00 s", "50.0 ms (0.050x)"],
    ]
    assert [row[-1] for row in goals.rows] == ["met", "met", "met"]
    assert "| one APDU, p50 | 200 µs | 200 µs (1.00x) |" in near.markdown()
    assert len({len(line) for line in near.plain().splitlines()[2:]}) == 1


def test_same_results_give_the_same_picture(tmp_path: Path) -> None:
    one, two = tmp_path / "one.svg", tmp_path / "two.svg"
    plot(results(), one)
    plot(results(), two)
    assert one.read_bytes() == two.read_bytes()
    for told in ("pkcs11-tool -L", "attach", "200 µs"):
        assert told in one.read_text()
