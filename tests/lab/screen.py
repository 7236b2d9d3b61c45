"""A screen for a computer of the lab, which nobody sees: Xvfb, and xdotool for the hands of a person."""

from __future__ import annotations

import re
from typing import Final

from tests.lab.computer import Computer
from tests.lab.process import LabError, wait_until

_NUMBER: Final = ":7"


class Screen:
    """A screen and a keyboard.

    Args:
        computer: whose they are.

    Attributes:
        env: what programs need to find them.
    """

    def __init__(self, computer: Computer) -> None:
        self._computer = computer
        self.env = {"DISPLAY": _NUMBER}
        computer.popen(["Xvfb", _NUMBER, "-screen", "0", "1000x700x24", "-nolisten", "tcp"])
        wait_until(computer.outside(f"/tmp/.X11-unix/X{_NUMBER[1:]}").exists, "the screen is there")

    def windows(self) -> list[str]:
        """The titles of what is on the screen."""
        titles = "for one in $(xdotool search --onlyvisible --name .); do xdotool getwindowname $one; done"
        return self._computer.run(["sh", "-c", titles], self.env).out.splitlines()

    def wait_for(self, title: str, timeout: float = 60.0) -> None:
        """Wait for a window with such a title, a regular expression."""
        try:
            wait_until(lambda: any(re.search(title, one) for one in self.windows()), f"a window {title!r}", timeout)
        except LabError as error:
            raise LabError(f"{error}; there are {self.windows()}") from None

    def enter(self, title: str, text: str) -> None:
        """Type into a window with that title, and press Enter."""
        words = ["search", "--onlyvisible", "--name", title, "windowfocus", "--sync", "type", text]
        self._computer.run(["xdotool", *words], self.env).check()
        self._computer.run(["xdotool", "key", "Return"], self.env).check()
