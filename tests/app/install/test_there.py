"""What another computer says of itself is understood, and what it says wrongly does no harm."""

from __future__ import annotations

import pytest

from cardferry.app.hosts.ssh_host import SshHost
from cardferry.app.install.bring import _choose
from cardferry.app.install.own_files import own_abi
from cardferry.app.install.there import SetupError, There

HOST = SshHost("laptop")


def there(*lines: str) -> There:
    found = There()
    for line in lines:
        key, _, value = line.partition(" ")
        found.learn(key, value)
    return found


def refusal(*lines: str) -> str:
    with pytest.raises(SetupError) as error:
        _choose(HOST, there(*lines))
    return error.value.message


def test_a_python_like_ours_comes_before_a_newer_one() -> None:
    found = there(
        "system Linux x86_64",
        f"python /usr/bin/python3\t3.11.2\t{own_abi()}\t2.36",
        "python /opt/python3\t3.99.0\tcpython-399-x86_64-linux-gnu\t2.36",
        f"python /usr/bin/python3\t3.11.2\t{own_abi()}\t2.36",
    )
    assert len(found.pythons) == 2
    assert _choose(HOST, found).path == "/usr/bin/python3"
    assert _choose(HOST, found).glibc == 36
    found.pythons.pop(0)
    assert _choose(HOST, found).path == "/opt/python3"


def test_what_is_missing_is_named() -> None:
    assert refusal("system FreeBSD amd64") == "laptop runs FreeBSD amd64"
    assert refusal("system Linux x86_64") == "laptop lacks Python 3.11 or newer: it has none"
    said = refusal(
        "system Linux x86_64",
        "python /usr/bin/python3\t3.9.2\tcpython-39-x86_64-linux-gnu\t2.31",
        "python /opt/pypy\t3.11.0\tpypy311-pp73-x86_64-linux-gnu\t2.31",
        "broken /opt/python3",
    )
    assert said.endswith(
        "it has Python 3.9.2 (/usr/bin/python3), Python 3.11.0 (/opt/pypy), /opt/python3, which does not work"
    )


def test_a_cardferry_of_somebody_else_is_not_replaced() -> None:
    python = f"python /usr/bin/python3\t3.11.2\t{own_abi()}\t2.36"
    said = refusal("system Linux x86_64", "link /opt/cardferry", python)
    assert said == "laptop has a cardferry that setup has not brought: ~/.local/bin/cardferry -> /opt/cardferry"
    assert _choose(HOST, there("system Linux x86_64", "link ../share/cardferry/current", python))


@pytest.mark.parametrize("line", ["python x", "python a\tb\tc\td", "nonsense", "python \t\t\t"])
def test_a_line_that_is_none_does_no_harm(line: str) -> None:
    assert not [one for one in there(line).pythons if one.usable]
