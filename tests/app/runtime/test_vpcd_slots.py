"""Which virtual readers a pcscd's configuration has. The form: reader.conf(5)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cardferry.app.runtime.vpcd_slots import NoSlotsError, vpcd_ports

DRIVER = "/usr/lib/pcsc/drivers/serial/libifdvpcd.so"
#: As Debian's vsmartcard-vpcd has it.
DEBIAN = f"""\
FRIENDLYNAME "Virtual PCD"
DEVICENAME   /dev/null:0x8C7B
LIBPATH      {DRIVER}
CHANNELID    0x8C7B
"""


def entry(device: str, driver: str = DRIVER) -> str:
    return DEBIAN.replace("/dev/null:0x8C7B", device).replace(DRIVER, driver)


def test_debians_own_has_two(tmp_path: Path) -> None:
    (tmp_path / "vpcd").write_text(DEBIAN)
    assert vpcd_ports(tmp_path) == [35963, 35964]


def test_a_second_entry_has_two_more(tmp_path: Path) -> None:
    (tmp_path / "vpcd").write_text(DEBIAN)
    (tmp_path / "vpcd1").write_text(entry("/dev/null:35970", DRIVER.replace(".so", "1.so")))
    assert vpcd_ports(tmp_path) == [35963, 35964, 35970, 35971]


def test_several_entries_in_one_file(tmp_path: Path) -> None:
    (tmp_path / "all").write_text("# ours\n" + DEBIAN + "\n" + entry("/dev/null", "/opt/libifdvpcd-b.so"))
    assert vpcd_ports(tmp_path) == [35963, 35964, 35963, 35964]


def test_other_drivers_and_readers_elsewhere_are_none_of_ours(tmp_path: Path) -> None:
    (tmp_path / "a").write_text(entry("/dev/ttyS0", "/usr/lib/pcsc/drivers/serial/libccidtwin.so"))
    (tmp_path / "b").write_text(entry("card.example:35963"))
    (tmp_path / "c").write_text("#" + DEBIAN.replace("\n", "\n#"))
    (tmp_path / "d").mkdir()
    with pytest.raises(NoSlotsError) as caught:
        vpcd_ports(tmp_path)
    assert caught.value.hint == "apt install vsmartcard-vpcd"


def test_two_entries_of_one_file_would_share_its_slots_and_the_hint_gives_each_its_own(tmp_path: Path) -> None:
    driver = tmp_path / "libifdvpcd.so"
    driver.touch()
    folder = tmp_path / "reader.conf.d"
    folder.mkdir()
    (folder / "vpcd").write_text(entry("/dev/null:0x8C7B", str(driver)))
    (folder / "vpcd1").write_text(entry("/dev/null:0x8C7D", str(driver)))
    with pytest.raises(NoSlotsError, match="two slots and no more") as caught:
        vpcd_ports(folder)
    found = re.search(r"cp (\S+) (\S+), as its LIBPATH", caught.value.hint)
    assert found
    assert found[1] == str(driver)
    (folder / "vpcd1").write_text(entry("/dev/null:0x8C7D", found[2]))
    assert len(vpcd_ports(folder)) == 4
