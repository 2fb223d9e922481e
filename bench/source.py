"""Gives who connects to a port as many bytes as it asks for in eight. `python3 -c THIS PORT`: carried into a pod as text, it imports
nothing that is not Python's."""

import os
import socket
import sys
import threading

PIECE = 1 << 20


def serve(port: int) -> None:
    """Give bytes, for ever."""
    block = os.urandom(PIECE)

    def give(connection: socket.socket) -> None:
        with connection:
            left = int.from_bytes(connection.recv(8, socket.MSG_WAITALL), "big")
            while left:
                connection.sendall(block[:left])
                left -= min(left, PIECE)

    with socket.create_server(("0.0.0.0", port)) as listener:
        while True:
            threading.Thread(target=give, args=(listener.accept()[0],), daemon=True).start()


if __name__ == "__main__":
    serve(int(sys.argv[1]))
