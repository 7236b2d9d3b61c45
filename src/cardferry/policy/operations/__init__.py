"""What a command does: a command APDU becomes an operation, and the key or object that it concerns.

A `Tracker` follows one card: each command is judged before it is sent, and the tracker is told the answer, because
what a command means hangs on what has come before (which application is selected, which key, which pieces of a
chain). `meaning` asks the tables: `piv`, `openpgp`, `global_platform`, `yubikey`, and `iso` for everything that is the
same everywhere.

Whatever is not certain is taken for the strongest of what it can be; see `Operation` for the order.
"""

from cardferry.policy.operations.meaning import reading
from cardferry.policy.operations.operation import Meaning, Operation
from cardferry.policy.operations.tracker import Action, Tracker

__all__ = ["Action", "Meaning", "Operation", "Tracker", "reading"]
