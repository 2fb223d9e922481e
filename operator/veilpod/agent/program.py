"""The conversation with the launcher in the program's container: when to run, what it wrote, how it ended (paper step 7).

The socket knows these words and no others, because the program could speak on it too. One connection is accepted, once: the launcher's,
which is there before the first instruction of the program. What the program writes is kept as a bounded tail and never logged.
"""

import asyncio
import collections
import contextlib
import logging
import struct
from collections.abc import Callable, Sequence

from veilpod.agent.settings import unix_address
from veilpod.core.agent_messages import Exit
from veilpod.core.result import LOG_LIMIT, Log
from veilpod.errors import ProtocolViolation

_HEAD = struct.Struct(">BI")
_HELLO, _OUT, _ERR, _EXIT, _GO, _STOP, _SEEN = 0, 1, 2, 3, 8, 9, 10
_HOW = ("Exited", "Signaled", "Deadline", "NotStarted", "Stopped", "NotConfined")
_FRAME_LIMIT = 64 << 10
_SLACK_SECONDS = 15.0  # for the launcher's own kill at the deadline

log = logging.getLogger(__name__)


class Tail:
    """The last `limit` bytes of a stream."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._pieces: collections.deque[bytes] = collections.deque()
        self._kept = 0
        self.total = 0

    def add(self, data: bytes) -> None:
        """Append, and forget what is too old."""
        self.total += len(data)
        self._kept += len(data)
        self._pieces.append(data)
        while self._kept - len(self._pieces[0]) >= self._limit:
            self._kept -= len(self._pieces.popleft())

    def bytes(self) -> bytes:
        """What is kept."""
        return b"".join(self._pieces)[-self._limit :]

    @property
    def dropped(self) -> int:
        """How many bytes came before."""
        return self.total - len(self.bytes())


class Program:
    """The user's program, as the agent sees it. `listen` first, then `run`."""

    def __init__(self, socket: str) -> None:
        self._socket = socket
        self._out, self._err = Tail(LOG_LIMIT), Tail(LOG_LIMIT)
        self._connected: asyncio.Future[tuple[asyncio.StreamReader, asyncio.StreamWriter]] | None = None
        self._server: asyncio.Server | None = None
        self._writer: asyncio.StreamWriter | None = None

    @property
    def log(self) -> Log:
        """The end of what the program wrote."""
        out, err = self._out, self._err
        return Log(stdout=out.bytes(), stderr=err.bytes(), stdout_dropped=out.dropped, stderr_dropped=err.dropped)

    async def listen(self) -> None:
        """Open the socket. Nobody can connect before the kubelet starts the program's container."""
        self._connected = asyncio.get_running_loop().create_future()
        self._server = await asyncio.start_unix_server(self._accept, unix_address(self._socket), backlog=1)

    async def run(self, *, seconds: int, ports: Sequence[int], started: Callable[[], object]) -> Exit:
        """Wait for the launcher, let it run the program for `seconds` with TCP on `ports` alone, and return how that ended."""
        assert self._connected is not None
        try:
            async with asyncio.timeout(seconds):
                reader, self._writer = await self._connected
        except TimeoutError:
            return Exit(how="NotStarted", code=0)  # the kubelet never got so far: its image, or its container
        try:
            if await self._read(reader) != (_HELLO, b""):
                raise ProtocolViolation("BadLauncher", "the launcher did not greet", party="program")
            go = struct.pack(f">I{len(ports)}H", seconds, *ports)
            self._writer.write(_HEAD.pack(_GO, len(go)) + go)
            started()
            async with asyncio.timeout(seconds + _SLACK_SECONDS):
                return await self._until_exit(reader)
        except TimeoutError:
            return Exit(how="Deadline", code=0)
        except (EOFError, OSError):
            # The launcher is gone without a report: its container was killed, by memory or by the kubelet.
            return Exit(how="Signaled", code=9)
        finally:
            with contextlib.suppress(OSError):
                self._writer.close()

    def stop(self) -> None:
        """Tell the launcher to end the program. Nothing happens when it does not run."""
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(_HEAD.pack(_STOP, 0))

    async def close(self) -> None:
        """Close the socket: a launcher that is still there ends its program."""
        if self._server is not None:
            self._server.close()
        if self._writer is not None:
            self._writer.transport.abort()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert self._connected is not None
        assert self._server is not None
        if self._connected.done():
            writer.transport.abort()
            return
        self._connected.set_result((reader, writer))
        self._server.close()
        log.info("program.connected")

    async def _until_exit(self, reader: asyncio.StreamReader) -> Exit:
        while True:
            kind, body = await self._read(reader)
            if kind == _OUT:
                self._out.add(body)
            elif kind == _ERR:
                self._err.add(body)
            elif kind == _EXIT and len(body) == 5 and body[0] < len(_HOW):
                assert self._writer is not None
                self._writer.write(_HEAD.pack(_SEEN, 0))
                with contextlib.suppress(OSError):
                    await self._writer.drain()
                how, code = struct.unpack(">BI", body)
                return Exit(how=_HOW[how], code=min(code, 255))
            else:
                raise ProtocolViolation("BadLauncher", "a word that the launcher does not know", party="program")

    async def _read(self, reader: asyncio.StreamReader) -> tuple[int, bytes]:
        kind, size = _HEAD.unpack(await reader.readexactly(_HEAD.size))
        if size > _FRAME_LIMIT:
            raise ProtocolViolation("FrameTooLarge", "the launcher sends small frames", party="program")
        return kind, await reader.readexactly(size)
