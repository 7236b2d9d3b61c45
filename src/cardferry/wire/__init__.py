"""Bytes to values and back, sans-IO: the protocols that cardferry speaks, without any input or output.

Every codec takes bytes in pieces of any size and gives whole messages; it holds back only the beginning of the
message that is not whole yet, and it knows a message's size, and that it is allowed, before it holds any of it.
Bytes that break a protocol end in one error, `cardferry.wire.errors.WireError`. The standard library is all it needs.
"""
