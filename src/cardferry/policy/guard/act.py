"""One command that does more than read: what must be known of it to write it down when it has been answered.

What only uses a key is put into words later, when nobody waits for the answer (`HostGuard.note_later`): until then its
command is kept, and of its answer the length and the status word, because the rest may have been decrypted. All other
commands may carry a PIN or a key: they are put into words at once, and nothing of them is kept.
"""

from __future__ import annotations

import time
from typing import Final

from cardferry.manager.guard import GuardedReader
from cardferry.pcsc.caller import Caller
from cardferry.pcsc.reply import Reply
from cardferry.policy.audit import Entry
from cardferry.policy.audit.words import deed, operation_text, signed_digest
from cardferry.policy.guard.identity import Identity
from cardferry.policy.operations import Action, Operation
from cardferry.policy.redaction import describe_response
from cardferry.policy.rules.decide import Decision

#: What uses a key: these commands carry no PIN and no key, and programs send many of them.
KEY_USES: Final = frozenset({Operation.SIGN, Operation.DECRYPT, Operation.AUTHENTICATE})


class Act:
    """A command, and the card that it is for, as they are when it is sent.

    Args:
        caller: whose it is.
        action: what it does.
        decision: what allows it, or does not.
        reader: in which the card is.
        card: what is known of the card.
    """

    __slots__ = ("_atr", "_began", "_card", "_event", "_reader", "_seconds", "_size", "_status", "action", "at",
                 "caller", "decision")  # fmt: skip

    def __init__(
        self, caller: Caller, action: Action, decision: Decision, reader: GuardedReader, card: Identity
    ) -> None:
        self.caller = caller
        self.action = action
        self.decision = decision
        self.at = time.time()
        self._reader = reader.name
        self._atr = reader.atr
        self._card = card
        self._event = "asked"
        self._began = time.perf_counter()

    def answered(self, reply: Reply[bytes]) -> None:
        """The answer is there."""
        self.at = time.time()
        self._seconds = time.perf_counter() - self._began
        self._event = "done"
        response = reply.result() if reply.error is None else b""
        self._size, self._status = len(response), response[-2:]

    def entry(self) -> Entry:
        """The line about it."""
        action, caller = self.action, self.caller
        digest = signed_digest(action)
        entry = Entry(
            self.at,
            self._event,
            str(caller.principal),
            str(caller),
            caller.program.proved,
            self._reader,
            self._atr.hex(),
            operation_text(action.meaning),
            deed(action, digest, self._card.subjects.get(action.object or "", "")),
            digest.removeprefix(":"),
            str(self.decision),
        )
        if self._event == "done":
            entry.seconds = round(self._seconds, 6)
            response = bytes(self._size - len(self._status)) + self._status  # of the same length
            entry.outcome = describe_response(response) if response else "no answer"
        return entry
