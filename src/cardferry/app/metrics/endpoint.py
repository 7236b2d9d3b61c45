"""Where Prometheus asks: ``http://ADDRESS:PORT/metrics``, one answer for each connection, in its text format 0.0.4.

There is no sign-in and no encryption, and who uses which card is nobody else's business: only addresses of this
computer are listened at. A web page that has a name of its own point here does not get an answer: the name that is
asked for must be this computer's, too.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from email.parser import BytesHeaderParser
from typing import Final

from cardferry.app.agent.serving import Serving
from cardferry.pcsc.errors import UserError

log = logging.getLogger(__name__)

#: Where it is by default; `cardferry.cli.host` says so, too.
DEFAULT: Final = "127.0.0.1:7766"
#: Bytes of a question, s until it is asked and answered, and questions at once.
_MOST: Final = 8192
_PATIENCE: Final = 5.0
_MOST_AT_ONCE: Final = 16
_HEAD: Final = (
    "HTTP/1.1 {}\r\nContent-Type: {}\r\nContent-Length: {}\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n"
)


class MetricsError(UserError):
    """The metrics cannot be served."""

    exit_code = 61


def parse_address(text: str) -> tuple[str, int]:
    """An address of this computer and a port; raises `MetricsError` for what is none."""
    host, colon, port = text.rpartition(":")
    host = host.strip("[]") or "127.0.0.1"
    if not colon or not port.isdecimal() or not int(port) < 1 << 16:
        raise MetricsError(f"--metrics {text}: that is no ADDRESS:PORT", f"write --metrics {DEFAULT}")
    if not _is_here(host):
        raise MetricsError(
            f"--metrics {text}: the metrics have no sign-in, so they are served at an address of this computer only",
            f"write --metrics {DEFAULT}, and have a Prometheus elsewhere come through a proxy that asks who it is",
        )
    return host, int(port)


def _is_here(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def metrics_at(text: str) -> Callable[[Serving], AbstractAsyncContextManager[None]]:
    """What serves the metrics at an address; raises `MetricsError` when that cannot be."""
    host, port = parse_address(text)
    try:
        import prometheus_client  # noqa: F401, PLC0415 - of an extra
    except ImportError:
        raise MetricsError(
            "prometheus-client is not installed",
            "pip install 'cardferry[server]', or Debian's python3-prometheus-client",
        ) from None

    @asynccontextmanager
    async def beside(serving: Serving) -> AsyncIterator[None]:
        from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, generate_latest  # noqa: PLC0415

        from cardferry.app.metrics.registry import registry  # noqa: PLC0415

        numbers = registry(serving)
        endpoint = Endpoint(CONTENT_TYPE_PLAIN_0_0_4, lambda: generate_latest(numbers))
        try:
            server = await asyncio.start_server(endpoint.answer, host, port, limit=_MOST)
        except OSError as error:
            raise MetricsError(
                f"--metrics {text}: {error.strerror}", "write another port: --metrics 127.0.0.1:PORT"
            ) from None
        where = server.sockets[0].getsockname()
        log.info("metrics for Prometheus are at http://%s:%s/metrics", f"[{host}]" if ":" in host else host, where[1])
        try:
            yield
        finally:
            server.close()

    return beside


class Endpoint:
    """Answers who comes.

    Args:
        content_type: of the answer.
        render: makes it.
    """

    def __init__(self, content_type: str, render: Callable[[], bytes]) -> None:
        self._content_type = content_type
        self._render = render
        self._open = 0

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one question, and hang up."""
        self._open += 1
        try:
            if self._open <= _MOST_AT_ONCE:
                async with asyncio.timeout(_PATIENCE):
                    writer.write(self._answer(await reader.readuntil(b"\r\n\r\n")))
                    await writer.drain()
        except (OSError, EOFError, TimeoutError, asyncio.LimitOverrunError) as error:
            log.debug("somebody has asked for metrics, and not to the end: %r", error)
        finally:
            self._open -= 1
            writer.close()

    def _answer(self, question: bytes) -> bytes:
        line, _, headers = question.partition(b"\r\n")
        words = line.split(b" ")
        named = BytesHeaderParser().parsebytes(headers).get("Host", "")
        name = named.rpartition(":")[0] if named.rpartition(":")[2].isdecimal() else named
        if len(words) != 3 or not _is_here(name.strip("[]")):
            return self._reply("400 Bad Request", b"ask for this computer by one of its own names\n")
        if words[0] != b"GET":
            return self._reply("405 Method Not Allowed", b"only GET\n")
        if words[1].partition(b"?")[0] != b"/metrics":
            return self._reply("404 Not Found", b"see /metrics\n")
        return self._reply("200 OK", self._render(), self._content_type)

    @staticmethod
    def _reply(status: str, body: bytes, content_type: str = "text/plain; charset=utf-8") -> bytes:
        return _HEAD.format(status, content_type, len(body)).encode() + body
