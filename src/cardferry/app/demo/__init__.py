"""``cardferry demo``: two computers on this machine, a card in one, a program in the other.

`stage` builds the two computers from what this machine has, `programs` are what the guest runs, `story` tells it.
"""
