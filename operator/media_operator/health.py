"""`/healthz`, `/readyz` and `/metrics`, on the very loop that does the work: when that hangs, nobody answers.

Healthy is not "a thread answers" but "what has to happen happened lately". A replica that stands by is healthy.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

import structlog
from aiohttp import web
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from media_core.listening import listen

_log = structlog.stdlib.get_logger("media.health")

Ages = Callable[[], Mapping[str, tuple[float, float]]]
"""What -> (seconds, limit)."""


class Server:
    def __init__(self, runner: web.AppRunner) -> None:
        self._runner = runner

    @property
    def port(self) -> int:
        return int(self._runner.addresses[0][1])

    async def close(self) -> None:
        await self._runner.cleanup()


async def serve(
    host: str, port: int, ages: Ages, *, leads: Callable[[], bool], metrics: Callable[[], Awaitable[bytes]]
) -> Server:
    """Returns once it listens. Raises OSError where it cannot."""

    async def healthz(_: web.Request) -> web.Response:
        now = ages()
        late = [f"{what}: {age:.0f} s, at most {limit:.0f}" for what, (age, limit) in now.items() if age > limit]
        fine = [f"{what}: {age:.1f} s" for what, (age, limit) in now.items() if age <= limit]
        text = "\n".join([*late, *fine]) or "standby"
        return web.Response(status=503 if late else 200, text=text + "\n")

    async def readyz(_: web.Request) -> web.Response:
        return web.Response(text="leader\n" if leads() else "standby\n")

    async def scraped(_: web.Request) -> web.Response:
        return web.Response(body=await metrics(), headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4})

    app = web.Application()
    app.add_routes([web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/metrics", scraped)])
    runner = web.AppRunner(app, access_log=None, handle_signals=False)
    await runner.setup()
    await web.SockSite(runner, listen(host, port, backlog=128)).start()
    server = Server(runner)
    _log.info("listening", address=f"{host}:{server.port}")
    return server
