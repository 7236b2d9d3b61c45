"""A card that says what it has done: the witness against the tables.

Nothing in here looks at a command. A deed is known because the card's own code used a private key (its methods are
hooked), or because something that the card keeps is different from before.

A deed is what the tables must have taken the command for, or something as strong. Some deeds can be part of different
commands: a try of the PIN is used by VERIFY and by CHANGE REFERENCE DATA. Then any of its meanings will do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any, Protocol, Self
from unittest import mock

from cardferry.policy.operations import Meaning, Operation

#: The meanings, any of which will do.
Deed = frozenset[Meaning]
#: What gets the deeds.
Notes = Callable[[Deed], None]


def deed(*meanings: str) -> Deed:
    """From words such as ``sign:9C``."""
    return frozenset(
        Meaning(Operation(word), what or None) for word, _, what in (each.partition(":") for each in meanings)
    )


class Card(Protocol):
    """A card that can be asked for its deeds."""

    def process(self, apdu: bytes) -> bytes:
        """Its answer."""
        ...

    def kept(self) -> Mapping[str, Any]:
        """Everything that it keeps, by name."""
        ...

    def changed(self, name: str, value: Any) -> Deed | None:
        """The deed of having changed what is kept under this name to this value; None if that is no deed."""
        ...

    def hooks(self, did: Notes) -> list[tuple[Any, str, Any]]:
        """Class, method and what takes its place, so that using a key becomes known."""
        ...


class Witness:
    """Has a card, and knows what it does; a context manager."""

    def __init__(self, card: Card) -> None:
        self._card = card
        self._deeds: list[Deed] = []
        self._hooked = ExitStack()

    def process(self, apdu: bytes) -> tuple[bytes, list[Deed]]:
        """The card's answer, and its deeds."""
        self._deeds.clear()
        before = self._card.kept()
        response = self._card.process(apdu)
        after = self._card.kept()
        for name in before.keys() | after.keys():
            if before.get(name) != after.get(name) and (done := self._card.changed(name, after.get(name))):
                self._deeds.append(done)
        return response, list(self._deeds)

    def __enter__(self) -> Self:
        for where, name, what in self._card.hooks(self._deeds.append):
            self._hooked.enter_context(mock.patch.object(where, name, what))
        return self

    def __exit__(self, *_: object) -> None:
        self._hooked.close()
