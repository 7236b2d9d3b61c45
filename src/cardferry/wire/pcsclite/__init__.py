"""The protocol between libpcsclite and pcscd, versions 4:2 to 4:6, both byte orders and both roles.

`messages` has the values, `layout` the bytes, `server` and `client` the two sans-IO codecs. Layouts and sizes are
those of pcsc-lite's ``winscard_msg.h`` and ``eventhandler.h``.
"""
