r"""JSON of printable ASCII characters only, for values with words of others in them: the rest is escaped (``\u202e``).

So it does nothing to a terminal, and holds names that are no UTF-8 (lone surrogates), which `msgspec.json` refuses.
"""

from __future__ import annotations

import json
from typing import Any, TypeVar

import msgspec

Value = TypeVar("Value")


def encode(value: Any, indent: int | None = None) -> str:
    """A value of ours as JSON; on one line unless ``indent`` is the number of blanks per level."""
    return json.dumps(msgspec.to_builtins(value), indent=indent)


def decode(data: bytes, kind: type[Value]) -> Value:
    """The value in JSON of any kind; raises `ValueError` (`msgspec.ValidationError` is one) when it is none."""
    try:
        return msgspec.convert(json.loads(data), type=kind)
    except RecursionError:
        raise ValueError("nested too deeply") from None
