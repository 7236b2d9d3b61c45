"""The one process of an account that serves links, and how guests come to it."""
