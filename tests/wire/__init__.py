"""Tests of `cardferry.wire`."""
