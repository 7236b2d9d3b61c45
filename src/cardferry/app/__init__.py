"""Compositions: each way of using cardferry, spelled in one place from the parts of the rooms below, and their lifetime."""
