"""A provider between us and a node, that answers as a test wants: it leaves out, repeats, reorders, invents, or says nothing."""

import contextlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
from aiohttp import web

Lie = Callable[[str, list[Any], Any], Any]  # (method, params, the node's answer) -> what is told; raise LookupError to refuse


def honest(method: str, params: list[Any], answer: Any) -> Any:
    return answer


class Provider:
    """`lie` may be exchanged at any time. `asked` counts calls by method."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.lie: Lie = honest
        self.silent = False
        self.asked: dict[str, int] = {}


@contextlib.asynccontextmanager
async def provider(url: str) -> AsyncIterator[Provider]:
    """Stand in front of the node at `url`."""
    async with aiohttp.ClientSession() as session:

        async def answer(request: web.Request) -> web.Response:
            if self.silent:
                raise web.HTTPServiceUnavailable
            asked = await request.json()
            self.asked[asked["method"]] = self.asked.get(asked["method"], 0) + 1
            async with session.post(url, json=asked) as response:
                said = await response.json()
            if "result" in said:
                try:
                    said["result"] = self.lie(asked["method"], asked.get("params", []), said["result"])
                except LookupError as refusal:
                    said = {"jsonrpc": "2.0", "id": asked["id"], "error": {"code": -32000, "message": str(refusal)}}
            return web.Response(body=json.dumps(said), content_type="application/json")

        application = web.Application()
        application.router.add_post("/", answer)
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self = Provider(runner.addresses[0][1])
        try:
            yield self
        finally:
            await runner.cleanup()
