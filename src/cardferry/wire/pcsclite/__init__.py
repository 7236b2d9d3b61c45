"""The protocol between libpcsclite and pcscd, versions 4:2 to 4:6, both byte orders and both roles.

`messages` has the values, `exchanges` the table that says what is in each field of each message, `layout` what all
messages have in common; `server` and `client` are the two sans-IO codecs. Fields and sizes are those of pcsc-lite's
``winscard_msg.h`` and ``eventhandler.h``.
"""
