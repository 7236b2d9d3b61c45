"""Keys and credentials for a nats-server of the lab: nkeys, and the JWTs of an operator, his accounts and users.

The layout of the JWTs (version 2) is in nats-io/jwt; `nsc` is the tool that makes them outside of tests.
"""

from __future__ import annotations

import base64
import json
import secrets
import time
from dataclasses import dataclass
from typing import Any, Final

import nkeys

_PREFIXES: Final = {
    "operator": nkeys.PREFIX_BYTE_OPERATOR,
    "account": nkeys.PREFIX_BYTE_ACCOUNT,
    "user": nkeys.PREFIX_BYTE_USER,
}


@dataclass(frozen=True)
class Key:
    """A key pair of an operator, an account or a user.

    Attributes:
        kind: of whom.
        seed: the secret, as files have it.
        public: the other half, as configurations have it.
    """

    kind: str
    seed: str
    public: str

    @classmethod
    def new(cls, kind: str) -> Key:
        """A new one."""
        seed = bytes(nkeys.encode_seed(secrets.token_bytes(32), prefix=_PREFIXES[kind]))
        return cls(kind, seed.decode(), nkeys.from_seed(bytearray(seed)).public_key.decode())

    def claim(self, of: Key, **claims: Any) -> str:
        """A JWT about a key, signed with this one."""
        head = {"typ": "JWT", "alg": "ed25519-nkey"}
        body = {
            "jti": secrets.token_hex(16).upper(),
            "iat": int(time.time()),
            "iss": self.public,
            "name": of.kind,
            "sub": of.public,
            "nats": {"type": of.kind, "version": 2, **claims},
        }
        said = ".".join(_encoded(json.dumps(part).encode()) for part in (head, body))
        return f"{said}.{_encoded(nkeys.from_seed(bytearray(self.seed.encode())).sign(said.encode()))}"


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


_NO_LIMITS: Final = {"subs": -1, "data": -1, "payload": -1}
_ACCOUNT: Final = {
    "limits": {
        **_NO_LIMITS,
        **{"imports": -1, "exports": -1, "wildcards": True, "conn": -1, "leaf": -1},
        **{"mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1},
    },
}


class Operator:
    """Whoever runs a NATS service with JWTs.

    Attributes:
        options: lines of the server's configuration.
    """

    def __init__(self) -> None:
        own, system = Key.new("operator"), Key.new("account")
        self._account = Key.new("account")
        resolved = {
            system.public: own.claim(system, limits={**_NO_LIMITS, "conn": -1, "leaf": -1}),
            self._account.public: own.claim(self._account, **_ACCOUNT),
        }
        preload = ", ".join(f"{key}: {token}" for key, token in resolved.items())
        self.options = (
            f"operator: {own.claim(own)}\nsystem_account: {system.public}\n"
            f"resolver: MEMORY\nresolver_preload: {{ {preload} }}"
        )

    def credentials(self) -> str:
        """A file of credentials of a new user."""
        user = Key.new("user")
        token = self._account.claim(user, pub={}, sub={}, **_NO_LIMITS)
        return (
            f"-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{user.seed}\n------END USER NKEY SEED------\n"
        )
