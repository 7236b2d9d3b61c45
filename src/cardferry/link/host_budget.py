"""What all guests of a host together may make it keep: one limit on memory, on top of those that each guest has.

Bounds for each guest alone would add up: 256 guests of 64 MiB are 16 GiB. So every guest's account is added to one
sum, and when that is too large, the session of the guest for which most is kept ends. Accounts are brought up to date
every now and then, and all of them before anybody is sent away.
"""

from __future__ import annotations

from typing import Final
from typing import Protocol as Interface

#: Bytes that things cost beside the payload in them: a message that is not acknowledged, a call that is not carried
#: out, a card handle, a context (which has a task). Handles and contexts are charged four times what they take with
#: CPython 3.11: they are many objects, and the garbage collector stops everybody for the longer the more there are.
MESSAGE: Final = 192
CALL: Final = 1536
HANDLE: Final = 8192
CONTEXT: Final = 16384
#: An account may grow by so many bytes before it is brought up to date.
STEP: Final = 64 * 1024


class Account(Interface):
    """Somebody for whom memory is kept."""

    @property
    def memory(self) -> int:
        """Bytes that are kept for it now."""
        ...

    def exceeded(self, most: int) -> None:
        """All together keep more than ``most`` bytes, and this one most of it: give it back, soon."""
        ...


class Budget:
    """See the module.

    Args:
        most: bytes.

    Attributes:
        total: bytes, as far as accounts are up to date.
    """

    def __init__(self, most: int) -> None:
        self.total = 0
        self._most = most
        self._accounts: dict[Account, int] = {}

    def open(self, account: Account) -> None:
        """Somebody comes."""
        self._accounts[account] = 0

    def close(self, account: Account) -> None:
        """Somebody goes, or is about to."""
        self.total -= self._accounts.pop(account, 0)

    def update(self, account: Account) -> None:
        """The account may have grown."""
        if account in self._accounts:
            self._bring_up_to_date(account)
            if self.total > self._most:
                self._relieve()

    def _bring_up_to_date(self, account: Account) -> None:
        memory = account.memory
        self.total += memory - self._accounts[account]
        self._accounts[account] = memory

    def _relieve(self) -> None:
        for account in self._accounts:
            self._bring_up_to_date(account)
        while self.total > self._most:
            largest = max(self._accounts, key=lambda account: self._accounts[account])
            self.close(largest)
            largest.exceeded(self._most)
