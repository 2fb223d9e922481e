"""The store's probes and metrics over real HTTP."""

import asyncio
import contextlib
import socket

from veilpod.store import metrics


async def get(port: int, path: str) -> tuple[str, str]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    answer = (await reader.read()).decode()
    writer.close()
    head, _, body = answer.partition("\r\n\r\n")
    return head.splitlines()[0].split(" ", 1)[1], body


async def test_probes_and_metrics_tell_the_state() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ready = False
    task = asyncio.create_task(metrics.serve("127.0.0.1", port, read=lambda: {"tasks": 3.0}, ready=lambda: ready))
    try:
        async with asyncio.timeout(5):
            while True:
                with contextlib.suppress(ConnectionRefusedError):
                    assert (await get(port, "/healthz"))[0] == "200 OK"
                    break
                await asyncio.sleep(0.01)
        assert (await get(port, "/readyz"))[0] == "503 Service Unavailable"
        ready = True
        assert (await get(port, "/readyz"))[0] == "200 OK"
        assert await get(port, "/metrics") == ("200 OK", "# TYPE veilpod_store_tasks gauge\nveilpod_store_tasks 3.0\n")
        assert (await get(port, "/secrets"))[0] == "404 Not Found"
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
