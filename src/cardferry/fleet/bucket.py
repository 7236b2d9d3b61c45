"""Where the directory is: a bucket of JetStream's key-value store, made by the first host that needs it.

Guests make none: they come when perhaps one server of several is up, and do not know how many shall keep it.

`hosts.NAME` has the document of a host, and so has `labels.KEY.VALUE.NAME` for each of its labels, so that who wants
the hosts of one label gets no word about others. What is not written anew for `LIFE` s vanishes: hosts write every
`REFRESH` s. The layout of a bucket is in NATS' ADR-8: a stream ``KV_cardferry`` of the subjects ``$KV.cardferry.>``.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from cardferry.transports.nats.connection import Connection
from cardferry.transports.nats.errors import NatsError
from cardferry.transports.nats.explaining import explained

if TYPE_CHECKING:
    from nats.js.kv import KeyValue

log = logging.getLogger(__name__)

NAME: Final = "cardferry"
SUBJECTS: Final = f"$KV.{NAME}."
#: s
LIFE: Final = 8.0
REFRESH: Final = 2.5
#: Servers that keep it at most, unless somebody says otherwise.
_REPLICAS: Final = 3
_STREAM: Final = f"KV_{NAME}"
#: s in which a server that leads answers.
_ANSWER_TIME: Final = 2.0
_OPERATION: Final = "KV-Operation"


def host_key(name: str) -> str:
    """Where a host's document is."""
    return f"hosts.{name}"


def label_key(key: str, value: str, name: str) -> str:
    """Where it is as well, if the host has that label."""
    return f"labels.{key}.{value}.{name}"


def deleted(header: Mapping[str, str]) -> bool:
    """Whether a message takes a document away."""
    return _OPERATION in header


async def found(connection: Connection) -> KeyValue | None:
    """The bucket, None when no host has made it; raises `NatsError`."""
    from nats.js import errors  # noqa: PLC0415 - an extra

    with explained(connection.where):
        try:
            return await connection.jetstream.key_value(NAME)
        except errors.NotFoundError:
            return None


async def kept(connection: Connection) -> bool:
    """Whether hosts can write at this moment: the bucket is there, and one of its servers leads."""
    with suppress(NatsError, TimeoutError):
        async with asyncio.timeout(_ANSWER_TIME):
            return await found(connection) is not None
    return False


async def opened(connection: Connection, replicas: int = 0) -> KeyValue:
    """The bucket, which is made when it is not there; for hosts.

    Args:
        replicas: servers that shall keep it, if there are so many; 0 for as many as there are, up to three.

    Raises:
        NatsError: it cannot be had.
    """
    from nats.js import api, errors  # noqa: PLC0415 - an extra

    if (there := await found(connection)) is not None:
        return there
    with explained(connection.where):
        wanted = sorted({_wanted(connection, replicas), 1}, reverse=True)
        for number in wanted:
            config = api.KeyValueConfig(
                bucket=NAME,
                description="hosts of a cardferry fleet",
                history=1,
                ttl=LIFE,
                storage=api.StorageType.MEMORY,
                replicas=number,
                direct=True,
            )
            try:
                bucket = await connection.jetstream.create_key_value(config)
            except errors.APIError as error:
                if number == wanted[-1]:
                    raise
                log.info("the directory has no %d servers yet: %s", number, error.description)
                continue
            log.info("the directory of the fleet is made, kept by %s", _servers(number))
            return bucket
    raise AssertionError("no number of servers was tried")


async def keep_more(connection: Connection, replicas: int = 0) -> None:
    """Have it kept by as many servers as are wanted, where it was made when there were fewer.

    Args:
        replicas: see `opened`.

    Raises:
        NatsError: that cannot be done now.
    """
    wanted, jetstream = _wanted(connection, replicas), connection.jetstream
    with explained(connection.where):
        config = (await jetstream.stream_info(_STREAM)).config
        if (config.num_replicas or 1) < wanted:
            await jetstream.update_stream(config, num_replicas=wanted)
            log.info("the directory of the fleet is kept by %s from now on", _servers(wanted))


def _wanted(connection: Connection, replicas: int) -> int:
    return replicas or min(_REPLICAS, connection.servers)


def _servers(number: int) -> str:
    return f"{number} server{'s' if number > 1 else ''}"
