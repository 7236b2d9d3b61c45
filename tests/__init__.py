"""Tests; `tests.lab` builds the computers, cards and distances that they use."""
