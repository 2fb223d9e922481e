"""What runs in the pods of the NetworkPolicy tests: it listens on every port of the tests, and on demand knocks at those of others.

It is sent as text (python3 -c), so it stands alone and prints what it finds.
"""

import concurrent.futures
import json
import socket
import sys
import threading
import time

TCP_PORTS = (80, 81)
UDP_PORTS = (80,)
PATIENCE = 0.7


def serve() -> None:
    for port in TCP_PORTS:
        listener = socket.create_server(("", port), backlog=64)
        threading.Thread(target=_answer_tcp, args=(listener,), daemon=True).start()
    for port in UDP_PORTS:
        receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        receiver.bind(("", port))
        threading.Thread(target=_answer_udp, args=(receiver,), daemon=True).start()
    print("listening", flush=True)
    threading.Event().wait()


def _answer_tcp(listener: socket.socket) -> None:
    while True:
        listener.accept()[0].close()


def _answer_udp(receiver: socket.socket) -> None:
    while True:
        data, sender = receiver.recvfrom(64)
        receiver.sendto(data, sender)


def knock(target: "tuple[str, int, str]") -> bool:
    host, port, protocol = target
    if protocol == "TCP":
        try:
            socket.create_connection((host, port), timeout=PATIENCE).close()
        except OSError:
            return False
        return True
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        asker.settimeout(PATIENCE / 3)
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            asker.sendto(b"?", (host, port))
            try:
                asker.recvfrom(64)
            except OSError:
                continue
            return True
    return False


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        serve()
    targets = [tuple(target) for target in json.loads(sys.argv[1])]
    with concurrent.futures.ThreadPoolExecutor(len(targets)) as pool:
        print(json.dumps(list(pool.map(knock, targets))))
