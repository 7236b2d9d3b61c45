"""Who is in a pool: lists of the configuration file, and hosts of a fleet."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import pytest

from cardferry.app.hosts.connect import Way
from cardferry.app.hosts.pool_host import PoolHost
from cardferry.app.hosts.pool_members import MOST_HOSTS, InFleet, Listed, PoolError
from cardferry.app.hosts.pool_table import PoolTable, pool_table, pool_tables
from cardferry.app.hosts.registry import parse_host
from cardferry.changes import Changes
from cardferry.fleet.members import FleetHost, FleetReader
from cardferry.policy.configuration_file import ConfigurationError
from cardferry.policy.rules.configuration import Configuration
from cardferry.transports.errors import AddressSyntaxError


class Directory:
    """A fleet, as the test says."""

    def __init__(self, *hosts: FleetHost) -> None:
        self.hosts = hosts
        self.version = 0
        self._changes = Changes()

    def become(self, *hosts: FleetHost) -> None:
        self.hosts = hosts
        self.version += 1
        self._changes.announce()

    async def changed(self, version: int) -> None:
        while self.version == version:
            await self._changes.wait()


def lab(number: int, *readers: FleetReader) -> FleetHost:
    return FleetHost(f"LAB-{number}", readers=readers or (FleetReader("Reader"),))


def in_fleet(fleet: Directory, table: PoolTable, guest: str = "build1") -> InFleet:
    return InFleet(fleet, table, parse_host, guest)


def written(folder: Path, text: str) -> Path:
    path = folder / "config.toml"
    path.write_text(text)
    return path


# --- the table


def test_a_table_says_who_is_in_a_pool(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        '[pool.signing]\nmembers = ["laptop", "unix:/run/one", "laptop"]\nreaders = "Yubi*"\n'
        'subject = ["CN=a*", "CN=b"]\n'
        '[pool.other]\nlabel = "room=7"\nserial = "123"\n',
    )
    signing, other = pool_tables(path)
    members, where = ("laptop", "unix:/run/one"), f"{path}, line 1"
    assert signing == PoolTable("signing", members, ("Yubi*",), ("CN=a*", "CN=b"), file=where)
    assert [str(host) for host in Listed(signing, parse_host).hosts] == ["laptop", "unix:/run/one"]
    assert signing.means("Yubico YubiKey")
    assert not signing.means("Another reader")
    assert signing.means_card((), ("CN=x", "CN=abc"))
    assert not signing.means_card(("123",), ("CN=x",))
    assert other.means_card(("9", "123"), ())
    assert (other.label, pool_table("other", path), pool_table("third", path)) == ("room=7", other, None)
    Configuration.parse(path.read_text(), str(path))


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("[pool.s]\nmember = []\n", "line 2: there is no key 'member' in [pool.s]", "is 'members' meant?"),
        ("[pool.s]\nmembers = 3\n", "line 2: members: it is several in [ ]", 'in brackets: members = ["3"]'),
        ("[pool]\ns = 3\n", "line 2: s is no table", "write it as [pool.NAME]"),
        ("pool = 3\n", "pool is no table", "write it as [pool.NAME]"),
        (
            "[pool.'a b']\n",
            "line 1: 'a b' is no name of a pool",
            "up to 64 letters, digits, dots, dashes and underscores",
        ),
        (
            '[pool.s]\nmembers = ["a"]\nlabel = "a=b"\n',
            "line 3: label is for hosts of a fleet",
            "leave out one of the two",
        ),
        ('[pool.s]\nlabel = "ab"\n', "line 2: ", ""),
        ('[pool.s]\nmembers = ["pool:b"]\n', "[pool.s]: pool:b is a pool itself", "name the members of pool:b there"),
        ('[pool.s]\nmembers = ["a b"]\n', "[pool.s]: not a HOST: 'a b'", "a host's name has no blanks"),
    ],
)
def test_what_is_wrong_with_a_table_is_told_with_its_line(tmp_path: Path, text: str, message: str, hint: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ConfigurationError) as caught:
        [table.hosts(parse_host) for table in pool_tables(path)]
    assert message in caught.value.message
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("text", "says", "hint"),
    [
        ("members = []", "line 2: members is empty", "name at least one HOST"),
        ("", "line 1: [pool.a] has no members", "members = "),
        ('label = "b=c"', "hosts of a fleet with the label b=c, and there is no table [fleet] with servers", "[fleet]"),
    ],
)
async def test_who_attaches_a_pool_whose_table_is_wrong_hears_what_is_wrong_with_it(
    text: str, says: str, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "cardferry").mkdir(mode=0o700)
    written(tmp_path / "cardferry", f"[pool.a]\n{text}\n")
    with pytest.raises(ConfigurationError) as caught:
        async with parse_host("pool:a").reach(Way(tmp_path)):
            raise AssertionError
    assert says in caught.value.message
    assert hint in caught.value.hint


def test_a_pool_is_written_like_other_hosts() -> None:
    host = parse_host("pool:signing")
    assert isinstance(host, PoolHost)
    assert (str(host), host.label, host == parse_host("pool:signing")) == ("pool:signing", "pool-signing", True)
    for wrong in ("pool:", "pool:a b", "pool:-"):
        with pytest.raises(AddressSyntaxError):
            parse_host(wrong)


def test_a_pool_has_no_readers_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(PoolError) as caught:
        parse_host("pool:signing").open_readers(Way(tmp_path))
    assert caught.value.hint == "name one of its members"


# --- a fleet


def test_members_are_the_hosts_that_have_such_a_reader_with_such_a_card() -> None:
    signer = FleetReader("Yubico 1", serials=("11",), subjects={"9C": "CN=Signing"})
    fleet = Directory(
        lab(1, signer, FleetReader("Yubico 2", subjects={"9C": "CN=Else"})),
        lab(2, FleetReader("Other", subjects={"9C": "CN=Signing"})),
        lab(3, FleetReader("Yubico 3")),
        lab(4, FleetReader("Yubico 4", subjects={"9A": "CN=Signing"})),
    )
    members = in_fleet(fleet, PoolTable("signing", readers=("Yubico*",), subjects=("CN=Sign*",)))
    assert sorted(map(str, members.hosts)) == ["fleet:LAB-1", "fleet:LAB-4"]
    first = parse_host("fleet:LAB-1")
    assert members.means(first, "Yubico 1")
    assert not members.means(first, "Yubico 2")
    assert not members.means(parse_host("fleet:LAB-3"), "Yubico 3")


async def test_hosts_come_and_go_and_what_says_nothing_new_about_the_pool_wakes_nobody() -> None:
    fleet = Directory(lab(1))
    members = in_fleet(fleet, PoolTable("signing"))
    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(members.changed())
        await asyncio.sleep(0)
        fleet.become(lab(1, FleetReader("Reader", waiting=3)))
        for _ in range(5):
            await asyncio.sleep(0)
        assert not waiting.done()
        fleet.become(lab(1), lab(2))
    assert sorted(map(str, members.hosts)) == ["fleet:LAB-1", "fleet:LAB-2"]


def test_of_a_large_fleet_each_guest_has_links_to_some_hosts_and_all_hosts_are_used() -> None:
    hosts, guests = 1000, 100
    fleet = Directory(*map(lab, range(hosts)))
    chosen = [set(in_fleet(fleet, PoolTable("signing"), f"guest{number}").hosts) for number in range(guests)]
    assert {len(some) for some in chosen} == {MOST_HOSTS}
    used = Counter(host for some in chosen for host in some)
    assert len(used) > 0.75 * hosts
    assert max(used.values()) <= 8
    gone = next(iter(chosen[0]))
    fleet.become(*(host for host in fleet.hosts if f"fleet:{host.name}" != str(gone)))
    assert len(chosen[0] & set(in_fleet(fleet, PoolTable("signing"), "guest0").hosts)) == MOST_HOSTS - 1
