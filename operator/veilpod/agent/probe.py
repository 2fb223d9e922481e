"""One look at one address from inside a sandbox: accepted, refused, silent or unknown.

    accepted  somebody is there and answers
    refused   somebody is there and says no (a reset, an ICMP port unreachable): the packet got through
    silent    nothing came back in time, or there is no way there: what a fence looks like from inside
    unknown   this process could not look (no file handles, no memory): never counted as blocked

UDP has no handshake, so what is sent is a question that any name server answers, whatever it answers. It carries nothing.
"""

import asyncio
import contextlib
import errno
import socket

from veilpod.core.canary import Canary

# A DNS query for the API server's address: one question, recursion desired.
QUERY = (
    b"\x76\x70\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00"
    + b"".join(bytes([len(part)]) + part for part in (b"kubernetes", b"default", b"svc", b"cluster", b"local"))
    + b"\x00\x00\x01\x00\x01"
)
_ATTEMPTS = 3  # datagrams in one look: one may be lost
_REFUSED = frozenset({errno.ECONNREFUSED, errno.ECONNRESET, errno.ENOPROTOOPT})
# No route, an answer that forbids, or a filter in this network namespace. Were it not the fence but a filter on all system calls (EPERM),
# no peer would answer either, and nothing would be proved.
_NO_WAY = frozenset(
    {
        errno.ENETUNREACH,
        errno.EHOSTUNREACH,
        errno.ENETDOWN,
        errno.EHOSTDOWN,
        errno.EADDRNOTAVAIL,
        errno.EAFNOSUPPORT,
        errno.EACCES,
        errno.EPERM,
    }
)


async def look(place: Canary, seconds: float) -> str:
    """Say what is there. Never raises."""
    datagram, family = place.protocol == "udp", socket.AF_INET6 if ":" in place.host else socket.AF_INET
    try:
        sock = socket.socket(family, socket.SOCK_DGRAM if datagram else socket.SOCK_STREAM)
    except OSError as error:
        # A kernel without IPv6 reaches nobody over it; any other failure here is our own.
        return "silent" if error.errno == errno.EAFNOSUPPORT else "unknown"
    with sock:
        sock.setblocking(False)
        try:
            async with asyncio.timeout(seconds):
                await asyncio.get_running_loop().sock_connect(sock, (place.host, place.port))
                if datagram:
                    await _ask(sock, seconds / _ATTEMPTS)
        except TimeoutError:
            return _last_look(sock, datagram=datagram)
        except OSError as error:
            return _judge(error.errno)
    return "accepted"


async def _ask(sock: socket.socket, pause: float) -> None:
    loop = asyncio.get_running_loop()
    while True:
        sock.send(QUERY)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await loop.sock_recv(sock, 512)
                return


def _last_look(sock: socket.socket, *, datagram: bool) -> str:
    """Time is over, but a process that was not let run may have an answer that it has not read."""
    if code := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
        return "silent" if code == errno.ETIMEDOUT else _judge(code)
    try:
        if datagram:
            sock.recv(512)
        else:
            sock.getpeername()
    except OSError as error:
        return "silent" if error.errno in (errno.EAGAIN, errno.ENOTCONN) else _judge(error.errno)
    return "accepted"


def _judge(code: int | None) -> str:
    if code in _REFUSED:
        return "refused"
    return "silent" if code in _NO_WAY else "unknown"
