"""One message: u32 length, then an npz archive of named float64 arrays. No pickles, so a peer can send numbers and nothing else."""

import io
import socket
import struct

import numpy as np

from fedavg.model import Array

LIMIT = 16 << 20


def send(peer: socket.socket, **arrays: Array | float) -> None:
    """Send named arrays."""
    body = io.BytesIO()
    np.savez(body, **{name: np.asarray(value, dtype=np.float64) for name, value in arrays.items()})  # type: ignore[arg-type]
    peer.sendall(struct.pack(">I", body.tell()) + body.getvalue())


def receive(peer: socket.socket) -> dict[str, Array]:
    """Receive named arrays. Raises ConnectionError when the peer is gone or sends nonsense."""
    (length,) = struct.unpack(">I", _exactly(peer, 4))
    if length > LIMIT:
        raise ConnectionError(f"a message of {length} bytes")
    try:
        with np.load(io.BytesIO(_exactly(peer, length)), allow_pickle=False) as archive:
            return {name: np.asarray(archive[name], dtype=np.float64) for name in archive.files}
    except (ValueError, OSError) as error:
        raise ConnectionError("not an archive of arrays") from error


def _exactly(peer: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        piece = peer.recv(min(65536, size - len(data)))
        if not piece:
            raise ConnectionError("the peer has closed")
        data += piece
    return bytes(data)
