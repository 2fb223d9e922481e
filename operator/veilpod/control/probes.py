"""/healthz, /readyz and /metrics over HTTP. A probe says why in its body, in words for people; nothing here names a task or a place."""

from collections.abc import Callable

import prometheus_client
from aiohttp import web

from veilpod.control.metrics import Metrics

Probe = Callable[[], str | None]


async def serve(*, port: int, alive: Probe, ready: Probe, metrics: Metrics, host: str | None = None) -> web.AppRunner:
    """Start the server. The caller ends it with `cleanup`."""

    async def healthz(_: web.Request) -> web.Response:
        return _answer(alive())

    async def readyz(_: web.Request) -> web.Response:
        return _answer(ready())

    async def export(_: web.Request) -> web.Response:
        body = prometheus_client.generate_latest(metrics.registry)
        return web.Response(body=body, headers={"Content-Type": prometheus_client.CONTENT_TYPE_LATEST})

    application = web.Application()
    application.add_routes([web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/metrics", export)])
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, host, port).start()
    return runner


def _answer(problem: str | None) -> web.Response:
    return web.Response(text=problem or "ok", status=503 if problem else 200)
