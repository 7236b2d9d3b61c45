"""The table [fleet]: what it says, and where it is wrong."""

from __future__ import annotations

import tomllib

import pytest

from cardferry.policy.configuration_file import ConfigurationError
from cardferry.policy.fleet_table import fleet_settings
from cardferry.policy.rules.configuration import Configuration


def test_all_that_it_can_say() -> None:
    text = """[fleet]
servers = ["nats://n1:4222", "nats://lab:secret@n2"]
credentials = "/lab.creds"
ca = "/ca.pem"
cert = "/cert.pem"
key = "/key.pem"
name = "LAB-7"
labels = { pool = "signing" }
replicas = 3
"""
    found = fleet_settings(tomllib.loads(text), text, "file")
    assert found.servers == ("nats://n1:4222", "nats://lab:secret@n2")
    assert str(found) == "nats://n1:4222,nats://n2", "a password is nobody's business"
    assert (found.name, found.token, found.labels, found.replicas) == ("LAB-7", "LAB-7", {"pool": "signing"}, 3)
    assert (found.credentials, found.ca, found.cert, found.key) == ("/lab.creds", "/ca.pem", "/cert.pem", "/key.pem")
    Configuration.parse(text, "file")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('server = "nats://n1"', "there is no key 'server'"),
        ('servers = "http://n1"', "not a NATS server"),
        ("servers = [1]", "it is text"),
        ('name = "LAB 7"', "not a name in a fleet"),
        ('labels = { pool = "a.b" }', "not a label"),
        ("labels = 1", "it is a table"),
        ("replicas = 9", "from 0 to 5"),
        ('cert = "/c.pem"', "cert and key belong together"),
    ],
)
def test_what_is_wrong_in_the_table_is_said_with_its_line(line: str, says: str) -> None:
    with pytest.raises(ConfigurationError) as told:
        Configuration.parse(f"[fleet]\n{line}\n", "file")
    assert "file, line 2" in told.value.message
    assert says in told.value.message + told.value.hint
