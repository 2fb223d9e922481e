"""The one word that ends a pod: whoever asks too often is not heard, and keeps nobody else from asking."""

import asyncio
import pathlib

from veilpod.agent.seal import RELEASED, SealSocket
from veilpod.net.framing import read_json_frame


async def test_many_askers_take_no_more_than_their_places_and_leave_them_behind(tmp_path: pathlib.Path) -> None:
    path = str(tmp_path / "seal")
    socket = SealSocket(path)
    serving = asyncio.create_task(socket.serve())
    async with asyncio.timeout(10):
        while True:
            try:
                _, first = await asyncio.open_unix_connection(path)
                break
            except FileNotFoundError:
                await asyncio.sleep(0.01)
        asking = [await asyncio.open_unix_connection(path) for _ in range(3)]
        refused, closing = await asyncio.open_unix_connection(path)
        assert await refused.read() == b""
        for writer in (closing, first, *(writer for _, writer in asking)):
            writer.close()
            await writer.wait_closed()

        socket.release(RELEASED)
        while True:
            reader, writer = await asyncio.open_unix_connection(path)
            try:
                assert await read_json_frame(reader, limit=1024, party="agent") == {"outcome": RELEASED}
                break
            except EOFError:  # the agent has not seen yet that the others are gone
                continue
            finally:
                writer.close()
    serving.cancel()
