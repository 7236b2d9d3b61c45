"""The resource manager: who uses which card, and when (PC/SC part 5).

`LocalManager` arbitrates the readers of this computer. Inside, from the outside in:

- `manager.LocalManager` keeps the readers, publishes snapshots and owns what must outlive a call;
- `context.LocalContext` is one SCARDCONTEXT, `card.LocalCard` one SCARDHANDLE: they check arguments;
- `slot.Slot` is one reader with everything that its handles share;
- `turns.Turns` is the queue in front of the card.
"""

from cardferry.manager.manager import LocalManager
from cardferry.manager.settings import ExclusivePolicy, Settings

__all__ = ["ExclusivePolicy", "LocalManager", "Settings"]
