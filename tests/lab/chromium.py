"""Debian's Chromium without a window, in a computer of the lab; spoken to by the DevTools protocol over its pipe.

Messages are JSON, each followed by a NUL, at descriptors 3 and 4 (``--remote-debugging-pipe``).
"""

from __future__ import annotations

import base64
import itertools
import json
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from tests.lab.computer import Computer
from tests.lab.process import LabError, wait_until

_PIPES: Final = 'exec "$@" 3<&0 4>&1 0</dev/null 1>&2'
_WORDS: Final = (
    "chromium", "--headless=new", "--no-sandbox", "--remote-debugging-pipe", "--no-first-run", "--disable-gpu",
    "--disable-dev-shm-usage", "--disable-extensions", "--disable-background-networking", "--disable-component-update",
    "--hide-scrollbars",
)  # fmt: skip


class Chromium:
    """A browser with one page; a context manager that ends it.

    Args:
        computer: where it runs.

    Attributes:
        complaints: what the page has written to the console, and what the browser has refused it.
    """

    def __init__(self, computer: Computer) -> None:
        folder = tempfile.mkdtemp(prefix="chromium-", dir=computer.home)
        words = [*_WORDS, f"--user-data-dir={folder}", "about:blank"]
        command = computer.command(["bash", "-c", _PIPES, "chromium", *words])
        self._errors = (computer.folder / "chromium.err").open("ab")
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, env=computer.env
        )
        self._numbers = itertools.count(1)
        self._data = b""
        self._session: str | None = None
        self.complaints: list[str] = []

    def __enter__(self) -> Self:
        try:
            target = self._ask("Target.createTarget", url="about:blank")["targetId"]
            self._session = self._ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            for domain in ("Page", "Runtime", "Log"):
                self._ask(f"{domain}.enable")
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _end(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()  # it ends when nobody speaks to it any more
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()

    def _ask(self, method: str, **values: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        message: dict[str, Any] = {"id": next(self._numbers), "method": method, "params": values}
        if self._session is not None:
            message["sessionId"] = self._session
        self._process.stdin.write(json.dumps(message).encode() + b"\0")
        self._process.stdin.flush()
        while (answer := self._next()).get("id") != message["id"]:
            self._notice(answer)
        if "error" in answer:
            raise LabError(f"{method}: {answer['error']}")
        result: dict[str, Any] = answer["result"]
        return result

    def _next(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        while b"\0" not in self._data:
            piece = self._process.stdout.read1(1 << 20)  # type: ignore[attr-defined]
            if not piece:
                raise LabError(f"the browser has ended: {Path(self._errors.name).read_text(errors='replace')}")
            self._data += piece
        line, _, self._data = self._data.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        return message

    def _notice(self, said: dict[str, Any]) -> None:
        if said.get("method") == "Log.entryAdded":
            entry = said["params"]["entry"]
            self.complaints.append(f"{entry['source']}: {entry['text']} {entry.get('url', '')}")
        elif said.get("method") in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled"):
            self.complaints.append(json.dumps(said["params"]))

    def open(self, url: str) -> None:
        """Go to a page."""
        self._ask("Page.navigate", url=url)

    def run(self, script: str) -> Any:
        """The value of an expression on the page."""
        answer = self._ask("Runtime.evaluate", expression=script, returnByValue=True, userGesture=True)
        if "exceptionDetails" in answer:
            raise LabError(f"{script}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def text(self, selector: str = "body") -> str:
        """What is to be read in an element; empty where there is none."""
        return str(self.run(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''"))

    def wait_for(self, words: str, selector: str = "body", timeout: float = 20.0) -> str:
        """Wait until the words are to be read there."""
        try:
            wait_until(lambda: words in self.text(selector), f"{words!r} in {selector}", timeout)
        except LabError as error:
            raise LabError(f"{error}; the page has: {self.text()}") from None
        return self.text(selector)

    def click(self, selector: str) -> None:
        """Press the mouse where an element is, as a person does: on whatever is in front there."""
        where = self.run(
            f"(() => {{ const one = document.querySelector({json.dumps(selector)});"
            " one.scrollIntoView({block: 'center', behavior: 'instant'}); const box = one.getBoundingClientRect();"
            " return [box.x + box.width / 2, box.y + box.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self._ask("Input.dispatchMouseEvent", type=kind, x=where[0], y=where[1], button="left", clickCount=1)

    def fill(self, selector: str, text: str) -> None:
        """Type into a field."""
        self.run(f"document.querySelector({json.dumps(selector)}).focus()")
        self._ask("Input.insertText", text=text)

    def screen(self, width: int, height: int, *, dark: bool = False, phone: bool = False) -> None:
        """Be a screen of that size, in CSS pixels."""
        self._ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        scheme = "dark" if dark else "light"
        self._ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def without_javascript(self) -> None:
        """From the next page on."""
        self._ask("Emulation.setScriptExecutionDisabled", value=True)

    def picture(self) -> bytes:
        """A PNG of what is on the screen."""
        return base64.b64decode(self._ask("Page.captureScreenshot", format="png")["data"])
