"""What the service of the whole computer tells of itself: everything to root, to an account what is its own.

Whoever may use cards sees readers, cards and how many wait, as PC/SC tells it everybody; of guests and programs it
sees the account's own. Others are there, without their names. Whoever polkit keeps from cards is told that.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import msgspec

from cardferry.app.agent.serving import Serving
from cardferry.app.hosts.connect import ReachedHost
from cardferry.app.runtime.paths import SYSTEM_GUESTS
from cardferry.app.runtime.status_socket import Link, Running, TroubleStatus, troubles_of
from cardferry.frontends.pcsclite import PcscliteFrontend
from cardferry.manager.status import SlotStatus
from cardferry.pcsc.trouble import Cause

#: What ``status`` calls the service, and this computer among the others whose readers it has.
COMMAND: Final = "system"
HERE: Final = "this computer"
_OTHERS: Final = "another account"


class SystemStatus:
    """What there is to tell.

    Args:
        public: where programs connect.
        servings: how this computer's readers are served at this moment, the service's own way first; empty where no
            pcscd is.

    Attributes:
        hosts: other computers' readers, None without any.
        front: serves programs; None before it does.
    """

    def __init__(self, public: Path, servings: Callable[[], Sequence[Serving]]) -> None:
        self.hosts: ReachedHost | None = None
        self.front: PcscliteFrontend | None = None
        self._public = str(public)
        self._servings = servings
        self._since = time.time()

    def whole(self) -> Running:
        """All of it."""
        links: list[Link] = []
        readers: list[SlotStatus] = []
        contexts, remembered = 0, 0
        asks: list[str] = []
        servings = self._servings()
        if servings:
            how = servings[0].describe()
            readers, remembered, asks = how.readers, how.remembered, how.asks
            links.append(Link(HERE, how.state, self._public))
        if self.hosts is not None:
            links += self.hosts.links(self._public)
            readers = readers + self.hosts.users()[1]
        for guest in [guest for serving in servings for guest in serving.host.status.guests]:
            state = "up" if guest.connected else "out of reach"
            links.append(Link(guest.guest, state, str(SYSTEM_GUESTS), "link", guest=guest))
            contexts += guest.contexts
        troubles = []
        if self.front is not None:
            contexts += len(self.front.contexts)
            troubles = troubles_of(self.front.manager)
        own = os.getpid()
        return Running(COMMAND, own, self._since, links, contexts, readers, own, troubles, remembered, asks)

    def refused(self, says: str, hint: str) -> Running:
        """For whoever may not use cards."""
        trouble = TroubleStatus("", Cause.REFUSED.name.lower(), says, hint)
        return Running(
            COMMAND, own := os.getpid(), self._since, [Link(HERE, says, self._public)], 0, [], own, [trouble]
        )


def shown_to(whole: Running, uid: int, account: str) -> Running:
    """What an account may see of it.

    Args:
        uid, account: number and name of the account.
    """
    links = [link for link in whole.links if link.guest is None or _is_of(link.guest.principal, account)]
    mine = (f", user {uid})", *(f" on {link.guest.guest}" for link in links if link.guest is not None))
    readers = [_slot_for(slot, account, mine) for slot in whole.readers]
    return msgspec.structs.replace(whole, links=links, readers=readers)


def _slot_for(slot: SlotStatus, account: str, mine: tuple[str, ...]) -> SlotStatus:
    clients = [client for client in slot.clients if client.endswith(mine)]
    if len(clients) < len(slot.clients):
        clients.append(f"{len(slot.clients) - len(clients)} of other accounts")
    others = bool(slot.principal) and not _is_of(slot.principal, account)
    return replace(
        slot,
        clients=clients,
        holder=_OTHERS if others else slot.holder,
        principal="" if others else slot.principal,
        waiters=[
            one if _is_of(one.principal, account) else replace(one, client=_OTHERS, principal="")
            for one in slot.waiters
        ],
    )


def _is_of(principal: str, account: str) -> bool:
    """Whether a principal, as rules write it, is an account's: its programs, or guests that it has brought."""
    return principal.partition(":")[2].partition("/")[0] == account
