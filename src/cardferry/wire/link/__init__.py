"""The link's own bytes: what crosses a pipe between two cardferries, sans-IO.

`frames` cuts a byte stream into frames, `greeting` is what both ends say first on every pipe, and `session` is the
machine that both ends run: numbered frames, kept until acknowledged, so that a broken pipe loses and repeats nothing.
What the frames carry is none of its business (see `cardferry.link.messages`).
"""
