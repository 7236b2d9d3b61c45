"""The fleet: several hosts seen as one `ResourceManager`, and which hosts there are.

`Union` is one whose readers are those of all its hosts, side by side; `naming` says what each reader is called there.
`directory` has the hosts that have entered themselves (`entry`) in a bucket of a NATS service (`bucket`), each as
`members` describes it.
"""

from cardferry.fleet.union import Member, Union

__all__ = ["Member", "Union"]
