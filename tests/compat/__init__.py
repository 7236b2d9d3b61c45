"""Every client, every server: unmodified binaries of other releases, word sizes and byte orders."""
