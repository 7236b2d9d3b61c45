"""The one door for words of others, on their way to a terminal or a log: whoever shows any, shows `shown` of it.

Names of readers, programs and computers, error messages and good-byes are whatever the other computer, card or program
chose to say. Nothing of it may move the cursor, change colours or the title, run backwards, begin a line of its own
or fill the screen.
"""

from __future__ import annotations

from typing import Final

#: Characters of the longest text that is shown whole.
MOST_SHOWN: Final = 1000


def shown(text: str, most: int = MOST_SHOWN) -> str:
    r"""The text on one line: what is no printable character is written out, as in ``\x1b``; the end is cut off.

    Printable is meant as Unicode and `str.isprintable` do: control characters (C0, C1), line ends, marks that change
    the direction of writing, invisible ones and bytes that are no UTF-8 are not.

    Args:
        most: characters of ``text`` that are shown.
    """
    if len(text) > most:
        text = f"{text[:most]}... ({len(text) - most} characters more)"
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


def shown_lines(text: str) -> str:
    """The same for a traceback of ours, which keeps its lines. They are indented, so that none passes for a message."""
    return "\n".join(f"  {shown(line)}" for line in text.splitlines())
