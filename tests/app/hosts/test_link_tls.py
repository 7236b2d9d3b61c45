"""A link over TLS: rules and records know who it is, and who is removed is gone in this moment."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from cardferry.app.hosts.direct_link import linked_directly
from cardferry.app.hosts.ssh_link import RefusedError
from cardferry.link import LinkState
from cardferry.transports import tls
from cardferry.transports.base import HOW_TO_JOIN
from cardferry.transports.tls.host import own_host
from tests.app.agent.at_work import until
from tests.app.agent.test_listeners import open_at
from tests.link.desk import READER
from tests.transports.tls import tls_lab


async def test_who_is_removed_is_out_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    address = tls_lab.joined_port(tmp_path, monkeypatch)
    async with open_at(address) as host, linked_directly(address) as guest:
        assert [reader.name for reader in guest.snapshot.readers] == [READER]
        (known,) = host.status.guests
        assert (known.principal, known.guest) == ("tls:build1", "build1 at 127.0.0.1")
        assert own_host().guests.known["build1"].software.startswith("cardferry ")
        own_host().guests.remove("build1")
        tls.recheck()
        async with asyncio.timeout(4):  # and not after the grace of 10 s
            await until(lambda: not host.status.guests)
        await until(lambda: guest.state is LinkState.DOWN)
        with pytest.raises(RefusedError, match="build1 is no guest of this host") as refused:
            async with linked_directly(address):
                pass
        assert refused.value.hint == HOW_TO_JOIN
        (over,) = [one.getMessage() for one in caplog.records if "is over" in one.getMessage()]
        assert over.endswith(f"; it says: build1 is no guest of this host (any more); {HOW_TO_JOIN}")
        lines = [one for one in caplog.records if "turned away" in one.getMessage() and one.levelname == "WARNING"]
        assert len(lines) == 1, "it comes again and again"
        tls_lab.join(address)
        await until(lambda: guest.state is LinkState.UP)
