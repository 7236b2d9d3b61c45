"""cardferry on another computer of the same person: brought there over ssh, without root and without a network there.

`bring` puts it into ``~/.local/share/cardferry`` over there; what runs there meanwhile is plain ``sh`` (``look.sh``,
``remove.sh``) and the Python that is there (``receive.py``).
"""
