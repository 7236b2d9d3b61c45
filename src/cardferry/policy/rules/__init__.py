"""Who may do what: rules as a person writes them (`rule`), and the one function that asks them (`decide`). Pure.

`configuration` reads them from a TOML file, `defaults` are those without one, `limits` counts what has been done.
"""

from cardferry.policy.configuration_file import ConfigurationError
from cardferry.policy.rules.configuration import Configuration
from cardferry.policy.rules.decide import Decision, Verdict, decide
from cardferry.policy.rules.rule import Ask, Pin, Rule

__all__ = ["Ask", "Configuration", "ConfigurationError", "Decision", "Pin", "Rule", "Verdict", "decide"]
