"""The store's public port: sealed requests over plain TCP, reached by the last relay of a circuit.

Nobody logs in: a request is anonymous and sealed to the node's key, and what an operation needs to know of its caller is in its
arguments, as signatures. So the port only bounds what strangers can cost: connections, idle time, frame sizes.
"""

import asyncio
import contextlib
import logging
from collections.abc import Iterator

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from veilpod.errors import CircuitFailed, VeilpodError
from veilpod.net import sealed_request

_CONNECTIONS = 256
_CLOSE_SECONDS = 2.0
_WRITE_SECONDS = 60.0

log = logging.getLogger(__name__)


class TcpStream:
    """A ports.Stream over one TCP connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def read(self, limit: int = 65536) -> bytes:
        with _as_circuit_failure():
            return await self._reader.read(limit)

    async def readexactly(self, size: int) -> bytes:
        with _as_circuit_failure():
            return await self._reader.readexactly(size)

    async def write(self, data: bytes) -> None:
        with _as_circuit_failure():
            self._writer.write(data)
            async with asyncio.timeout(_WRITE_SECONDS):
                await self._writer.drain()

    async def write_eof(self) -> None:
        with _as_circuit_failure():
            self._writer.write_eof()

    async def close(self) -> None:
        self._writer.close()
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self._writer.wait_closed()


class Listener:
    """Answers sealed requests once it was given the node's key; before that it hangs up at once."""

    def __init__(self, handler: sealed_request.RequestHandler) -> None:
        self._handler = handler
        self._key: X25519PrivateKey | None = None
        self._open = 0
        self._group: asyncio.TaskGroup
        self.listening = asyncio.Event()
        self.port = 0  # the real one once `listening`

    @property
    def unlocked(self) -> bool:
        """Whether requests are answered."""
        return self._key is not None

    def unlock(self, key: X25519PrivateKey) -> None:
        """Set the key that requests are sealed to."""
        self._key = key

    async def serve(self, host: str, port: int) -> None:
        """Serve until cancelled. Port 0 takes any."""
        async with asyncio.TaskGroup() as self._group:
            server = await asyncio.start_server(self._accept, host, port, backlog=_CONNECTIONS)
            async with server:
                self.port = server.sockets[0].getsockname()[1]
                self.listening.set()
                await server.serve_forever()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._key is None or self._open >= _CONNECTIONS:
            writer.transport.abort()
            return
        self._open += 1
        self._group.create_task(self._converse(self._key, TcpStream(reader, writer)))

    async def _converse(self, key: X25519PrivateKey, stream: TcpStream) -> None:
        try:
            await sealed_request.serve(stream, key, self._handler)
        except (VeilpodError, OSError, TimeoutError) as error:
            log.info("request.ended", extra={"reason": type(error).__name__})
        finally:
            self._open -= 1
            await stream.close()


@contextlib.contextmanager
def _as_circuit_failure() -> Iterator[None]:
    try:
        yield
    except (ConnectionError, TimeoutError) as error:
        raise CircuitFailed("the connection broke") from error
