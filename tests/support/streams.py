"""Byte streams with the interface of ports.Stream, over nothing but memory: for tests of what is said, not of how it travels."""

import asyncio

from veilpod.errors import CircuitFailed


class MemoryStream:
    """One end of a pipe, with back-pressure."""

    def __init__(self, incoming: asyncio.StreamReader) -> None:
        self._incoming = incoming
        self.peer: MemoryStream
        self.ended = False

    async def read(self, limit: int = 65536) -> bytes:
        return await self._incoming.read(limit)

    async def readexactly(self, size: int) -> bytes:
        return await self._incoming.readexactly(size)

    async def write(self, data: bytes) -> None:
        if self.ended:
            raise CircuitFailed("the stream was ended")
        self.peer._incoming.feed_data(data)
        await asyncio.sleep(0)

    async def write_eof(self) -> None:
        if not self.ended:
            self.ended = True
            self.peer._incoming.feed_eof()

    async def close(self) -> None:
        await self.write_eof()


def stream_pair() -> tuple[MemoryStream, MemoryStream]:
    one, two = MemoryStream(asyncio.StreamReader(limit=1 << 26)), MemoryStream(asyncio.StreamReader(limit=1 << 26))
    one.peer, two.peer = two, one
    return one, two
