"""Tests of `cardferry.wire.pcsclite`."""
