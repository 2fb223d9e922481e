"""A fence on loopback: a peer that answers and a canary that does not, as a dropped packet looks from inside."""

import contextlib
import socket
from collections.abc import Iterator

from veilpod.core.canary import Canary


class Fence:
    """`peer` accepts connections (`open_canary` is the same place); nothing comes back from `canary` until `fall`."""

    def __init__(self, *, up: bool = True) -> None:
        self._peer = socket.create_server(("127.0.0.1", 0), backlog=128)
        # A listener whose queue is full: the kernel drops what else arrives, which is how a fence behaves.
        self._canary = socket.create_server(("127.0.0.1", 0), backlog=0)
        self.peer: tuple[str, int] = self._peer.getsockname()
        self.canary = _canary(self._canary)
        self.open_canary = _canary(self._peer)
        self._fill: list[socket.socket] = []
        for _ in range(2 if up else 0):
            filler = socket.socket()
            filler.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                filler.connect(self._canary.getsockname())
            self._fill.append(filler)

    def fall(self) -> None:
        """The canary answers from now on: refused, which proves that packets reach it."""
        self._canary.close()
        for filler in self._fill:
            filler.close()

    def close(self) -> None:
        self.fall()
        self._peer.close()


def _canary(listener: socket.socket) -> Canary:
    host, port = listener.getsockname()
    return Canary(host=host, port=port)


@contextlib.contextmanager
def fence() -> Iterator[Fence]:
    built = Fence()
    try:
        yield built
    finally:
        built.close()
