"""Compositions: each way of using cardferry, spelled in one place from the rooms below, and its lifetime."""
