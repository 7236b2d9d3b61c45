"""The field's words: PC/SC, ISO 7816 and pcsc-lite terms as Python values.

Nothing in here does input or output, and nothing imports another room of cardferry.
"""
