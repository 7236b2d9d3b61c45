"""Tests with a real reader and a real card, on this computer: run with ``--reader NAME``."""
