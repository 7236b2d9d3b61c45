"""What holds without a configuration: the owner may do everything, doors for others what using a card needs.

Doors are what an administrator opens on purpose to other accounts and machines: ``--mode`` and ``--group``, links
through a Unix socket of another user, virtual machines. They get no operation that changes the card, and not `OTHER`,
which is stronger than all. ssh keys are the owner's: whoever may log in to the account may do what it can.
"""

from __future__ import annotations

from typing import Final

from cardferry.policy.operations import Operation
from cardferry.policy.rules.rule import ALL, Permission, Rule

#: What a door is for.
DOOR: Final = (Operation.READ, Operation.VERIFY, Operation.SIGN, Operation.DECRYPT, Operation.AUTHENTICATE)


def default_rules(account: str, *, everybody: bool = False) -> tuple[Rule, ...]:
    """The rules without a configuration, for the account that has the readers.

    Args:
        everybody: the readers are all local programs', as those of pcscd are.
    """
    local = "*" if everybody else _literally(account)
    owner = ("ssh:*", f"local-user:{local}", f"unix:{_literally(account)}")
    return (
        Rule(0, owner, "*", (Permission.parse(ALL),)),
        Rule(0, ("*",), "*", tuple(Permission.parse(operation.value) for operation in DOOR)),
    )


def _literally(name: str) -> str:
    """A pattern that matches this name only."""
    return "".join(f"[{char}]" if char in "*?[" else char for char in name)
