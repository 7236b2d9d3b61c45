"""Layers around a resource manager: what a program sees of it, and what is noted of its calls, without secrets."""
