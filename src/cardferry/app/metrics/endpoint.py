"""Where Prometheus asks: ``http://ADDRESS:PORT/metrics``, in its text format 0.0.4.

There is no sign-in and no encryption, and who uses which card is nobody else's business: only addresses of this
computer are listened at. A web page that has a name of its own point here does not get an answer: the name that is
asked for must be this computer's, too.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from cardferry.app.web.address import WebAddress, WebError
from cardferry.app.web.opening import check_libraries

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from cardferry.app.agent.server import Beside, OpenServing
    from cardferry.app.agent.serving import Serving

log = logging.getLogger(__name__)

#: Where it is by default; `cardferry.cli.host` says so, too.
DEFAULT: Final = "127.0.0.1:7766"


def metrics_at(text: str) -> Beside:
    """What serves the metrics at ``ADDRESS:PORT``; raises `UserError` when that cannot be."""
    address = WebAddress.parse(text, "--metrics", DEFAULT)
    if not address.here:
        raise WebError(
            f"--metrics {text}: nothing encrypts them, so they can be at an address of this computer only",
            f"write --metrics {DEFAULT}, and have a Prometheus elsewhere come through ssh -L or a proxy",
        )
    check_libraries("the metrics need", "prometheus_client", "starlette", "uvicorn")

    @asynccontextmanager
    async def beside(serving: Serving, _open: OpenServing) -> AsyncIterator[None]:
        # An extra has them.
        from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, generate_latest  # noqa: PLC0415
        from starlette.applications import Starlette  # noqa: PLC0415
        from starlette.responses import Response  # noqa: PLC0415
        from starlette.routing import Route  # noqa: PLC0415

        from cardferry.app.metrics.registry import registry  # noqa: PLC0415
        from cardferry.app.web.checks import Checked  # noqa: PLC0415
        from cardferry.app.web.http import http  # noqa: PLC0415

        numbers = registry(serving)

        async def metrics(_request: Request) -> Response:
            return Response(generate_latest(numbers), media_type=CONTENT_TYPE_PLAIN_0_0_4)

        with address.listen() as listening:
            where = WebAddress(*listening.getsockname()[:2])
            async with http(Checked(Starlette(routes=[Route("/metrics", metrics)])), listening):
                log.info("metrics for Prometheus are at http://%s/metrics", where)
                yield

    return beside
