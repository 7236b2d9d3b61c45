"""By how many servers the directory is kept."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest
from nats.js import errors

from cardferry.fleet import bucket
from cardferry.transports.nats.connection import Connection
from cardferry.transports.nats.errors import NatsError


@dataclass
class Service:
    """A connection to a service, and what it keeps.

    Attributes:
        servers: as many as are known of.
        up: so many of them can keep something.
        kept: by so many it is; 0 where there is no bucket.
    """

    servers: int
    up: int
    kept: int = 0
    where: str = "nats://n1"
    asked: list[int] = field(default_factory=list)

    @property
    def jetstream(self) -> Service:
        return self

    async def key_value(self, name: str) -> object:
        if not self.kept:
            raise errors.BucketNotFoundError
        return self

    async def stream_info(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(config=SimpleNamespace(num_replicas=self.kept))

    async def create_key_value(self, config: Any) -> object:
        return await self.update_stream(config, config.replicas)

    async def update_stream(self, config: Any, num_replicas: int) -> object:
        self.asked.append(num_replicas)
        if num_replicas > self.up:
            raise errors.APIError(code=400, description="no suitable peers for placement")
        self.kept = num_replicas
        return self


@pytest.mark.parametrize(
    ("servers", "up", "replicas", "first", "later"),
    [(1, 1, 0, 1, 1), (3, 1, 0, 1, 3), (5, 3, 0, 3, 3), (3, 2, 3, 1, 3), (5, 5, 5, 5, 5), (3, 3, 1, 1, 1)],
)
async def test_as_many_as_are_wanted_keep_it_or_one_until_they_are_there(
    servers: int, up: int, replicas: int, first: int, later: int
) -> None:
    service = Service(servers, up)
    connection = cast("Connection", service)
    assert await bucket.found(connection) is None
    assert not service.asked, "who looks makes none"
    await bucket.opened(connection, replicas)
    assert service.kept == first
    if first != later:
        with pytest.raises(NatsError, match="no suitable peers"):
            await bucket.keep_more(connection, replicas)
    service.up = servers
    service.asked.clear()
    for _ in range(2):
        await bucket.keep_more(connection, replicas)
    assert service.kept == later
    assert service.asked == ([later] if first != later else []), "what is well is left alone"
