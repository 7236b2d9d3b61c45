"""The person at the host, who says what a test has written down.

person = ScriptedPerson(YES, NO)
with host.guard.person.at(person): ...
"""

from __future__ import annotations

import asyncio

from cardferry.policy.pin.person import NO_ANSWER, Question, Said

YES, NO = Said(yes=True), Said(yes=False, cancelled=True)
TEN_MINUTES = Said(yes=True, lasting=True)
#: In the configuration: only the terminal asks, which is what a test puts in its place.
TERMINAL = 'ask-with = ["terminal"]\n'


def pin(digits: str) -> Said:
    return Said(yes=True, pin=bytearray(digits.encode()))


class ScriptedPerson:
    """Answers one question after the other; afterwards nobody answers."""

    name = "a test"

    def __init__(self, *answers: Said, after: float = 0.0) -> None:
        self.answers = list(answers)
        self.questions: list[Question] = []
        self._after = after

    def fits(self, question: Question) -> bool:
        return True

    async def ask(self, question: Question) -> Said:
        self.questions.append(question)
        await asyncio.sleep(self._after if self.answers else question.patience)
        return self.answers.pop(0) if self.answers else NO_ANSWER
