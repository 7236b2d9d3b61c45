"""Where the directory is: a bucket of JetStream's key-value store, made by the first host that needs it.

`hosts.NAME` has the document of a host, and so has `labels.KEY.VALUE.NAME` for each of its labels, so that who wants
the hosts of one label gets no word about others. What is not written anew for `LIFE` s vanishes: hosts write every
`REFRESH` s. The layout of a bucket is in NATS' ADR-8: a stream ``KV_cardferry`` of the subjects ``$KV.cardferry.>``.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from cardferry.transports.nats.connection import Connection
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


async def opened(connection: Connection, replicas: int = 0) -> KeyValue:
    """The bucket, which is made when it is not there.

    Args:
        replicas: servers that keep it; 0 for as many as there are, up to three.

    Raises:
        NatsError: it cannot be had.
    """
    from nats.js import api, errors  # noqa: PLC0415 - an extra

    with explained(connection.where):
        try:
            return await connection.jetstream.key_value(NAME)
        except errors.NotFoundError:
            pass
        servers = max(1, len({(one.hostname, one.port) for one in connection.client.servers}))
        wanted = [replicas] if replicas else sorted({min(_REPLICAS, servers), 1}, reverse=True)
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
                log.info("the directory has no %d servers: %s", number, error.description)
                continue
            log.info("the directory of the fleet is made, kept by %d server%s", number, "s" if number > 1 else "")
            return bucket
    raise AssertionError("no number of servers was tried")
