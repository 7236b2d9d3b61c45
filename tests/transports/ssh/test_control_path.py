"""ssh's control socket lies in our folder: its path must leave room for what ssh adds."""

from __future__ import annotations

from pathlib import Path

import pytest

from cardferry.transports.sockets import PATH_LIMIT, PathUnusableError
from cardferry.transports.ssh import SshCommand, SshError, connect

#: "/ctl", and what ssh adds to it while it binds.
INSIDE = len("/ctl.1234567890123456")


async def attempt(folder: Path) -> None:
    async with connect("computer1", SshCommand.parse("false"), folder):
        pass


async def test_a_folder_without_room_for_the_control_socket_is_named_with_a_remedy() -> None:
    with pytest.raises(PathUnusableError, match="too long") as raised:
        await attempt(Path("/" + "x" * (PATH_LIMIT - INSIDE)))
    assert "XDG_RUNTIME_DIR" in raised.value.hint


async def test_the_longest_folder_that_has_room_is_taken() -> None:
    with pytest.raises(SshError):
        await attempt(Path("/" + "x" * (PATH_LIMIT - INSIDE - 1)))
