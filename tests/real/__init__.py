"""Tests with everything real: pcscd, vpcd, OpenSSH, GnuPG, OpenSC, in computers of the lab."""
