"""The readers of a real pcscd, through its socket: any version from 4:2 to 4:6, here or forwarded from elsewhere.

From the outside in:

- `source.PcscdSource` finds the readers and mends what breaks;
- `watch.Watch` knows the reader table and when it changes, `table` what that means;
- `reader.PcscdReader` is one reader, `handle.CardHandle` its handle and lock, `neighbours.Neighbours` its other users;
- `connection.Connection` carries requests and replies, `connector` opens it, `failure` says why it cannot be.
"""

from cardferry.readers.pcscd.connector import Connector, unix_connector
from cardferry.readers.pcscd.failure import NoPcscdError, Reason
from cardferry.readers.pcscd.reader import PcscdReader
from cardferry.readers.pcscd.source import PcscdSource

__all__ = ["Connector", "NoPcscdError", "PcscdReader", "PcscdSource", "Reason", "unix_connector"]
