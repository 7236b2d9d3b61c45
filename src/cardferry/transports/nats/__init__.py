"""Ways through a NATS service, which both ends dial: links (``fleet:NAME``), and the connection that a directory needs.

`settings` and `address` are what everybody imports. The library ``nats-py`` (extra ``fleet``) is loaded by those who
connect.
"""
