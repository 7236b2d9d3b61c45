"""Sockets for applications: whom they are given to."""

from __future__ import annotations

from pathlib import Path

import pytest

from cardferry.frontends.listening import ListeningSocket, SocketPathError


@pytest.mark.parametrize("group", ["no-such-group", "", "99999999999999999999", "-1", "\u00b2"])
def test_a_group_that_cannot_be_leaves_no_socket(tmp_path: Path, group: str) -> None:
    path = tmp_path / "s"
    with pytest.raises(SocketPathError, match="cannot give"):
        ListeningSocket(path, group=group)
    assert not path.exists()
