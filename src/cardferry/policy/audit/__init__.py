"""What was done with the cards of a host, and what was refused, written down so that a change is found.

`chain` makes the lines and checks them (pure), `log` adds them to a file, `words` says what a command has done.
"""

from cardferry.policy.audit.chain import Entry
from cardferry.policy.audit.log import AuditError, AuditLog

__all__ = ["AuditError", "AuditLog", "Entry"]
