"""The PIN at the host: the pinpad that a reader seems to have, and where its PINs come from.

`entry` puts a PIN into the command that a program has prepared (PC/SC part 10); `secret` reads one that is kept for
machines without a person, `pinentry` asks a person.
"""
