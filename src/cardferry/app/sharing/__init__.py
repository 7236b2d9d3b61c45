"""The two ends of a ``share``."""
