"""The fleet: several hosts seen as one `ResourceManager`.

`Union` is one whose readers are those of all its hosts, side by side; `naming` says what each reader is called there.
"""

from cardferry.fleet.union import Member, Union

__all__ = ["Member", "Union"]
