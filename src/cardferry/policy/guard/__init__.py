"""The guard of a host: it sees each command in the card's order, and decides by the rules what becomes of it.

- `host.HostGuard` is what all readers of a host share: rules, limits, who must wait after wrong PINs, the audit;
- `card.RuledCard` stands in front of one reader (`cardferry.manager.guard`): follows the card, asks the rules, keeps
  principals apart (`unlocked`), keeps the last PIN try (`pin_tries`);
- `cards.Cards` knows which cards there are (`identity`);
- `control` says what a command to the reader is.
"""

from cardferry.manager.guard import CardGuard, GuardedReader, Guards
from cardferry.policy.guard.card import RuledCard
from cardferry.policy.guard.cards import Cards
from cardferry.policy.guard.host import HostGuard

__all__ = ["Cards", "HostGuard", "guards"]


def guards(host: HostGuard, cards: Cards) -> Guards:
    """What makes the guard of each reader; see `cardferry.manager.LocalManager.guarded_by`."""

    def guard(reader: GuardedReader) -> CardGuard:
        return RuledCard(host, cards, reader)

    return guard
