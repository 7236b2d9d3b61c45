"""cardferry: carries a smart card reader to every computer you work on."""

__version__ = "0.1.0"
