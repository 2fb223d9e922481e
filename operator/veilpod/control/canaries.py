"""What no sandbox of this release may reach, whatever anybody configured: what the operator knows of its own cluster (paper step 4).

    the API server     by its Service, and by the addresses behind it: a fence on the way to one may be none on the way to the other
    the cluster's DNS  UDP and TCP: it carries data out
    the operator       its own pod, in another namespace: any tenant's pod
    cloud metadata     credentials of the node, over IPv4 and IPv6

The node itself is in a SandboxClass's canaries (`node:10250`): only the pod learns where it is.
"""

import contextlib
import pathlib
import socket
import urllib.parse
from collections.abc import Iterable

from veilpod.core.canary import possible_canary
from veilpod.core.kinds import ENDPOINT_SLICES
from veilpod.errors import InvalidInput
from veilpod.kube.connection import Connection
from veilpod.ports import Cluster

METADATA = ("169.254.169.254:80", "[fd00:ec2::254]:80")
_API_NAMESPACE, _API_SLICE = "default", "kubernetes"
_RESOLVER = pathlib.Path("/etc/resolv.conf")


def of_process(connection: Connection, *, http_port: int, resolver: pathlib.Path = _RESOLVER) -> tuple[str, ...]:
    """What this pod was given to work with. Outside a pod there is nothing of that kind, only METADATA."""
    if connection.token_file is None:
        return METADATA
    found = [*METADATA, connection.endpoint]
    for server in _name_servers(resolver):
        found += [f"udp://{_host(server)}:53", f"{_host(server)}:53"]
    found.append(f"{_host(_own_address(connection))}:{http_port}")
    return tuple(_possible(found))


async def behind_the_api(cluster: Cluster) -> tuple[str, ...]:
    """The API server's own addresses, behind its Service. Raises Transient: not seen is not none."""
    found = await cluster.get(ENDPOINT_SLICES, _API_SLICE, namespace=_API_NAMESPACE) or {}
    addresses = [address for item in found.get("endpoints") or [] for address in item.get("addresses") or []]
    ports = [item["port"] for item in found.get("ports") or [] if item.get("port")]
    return tuple(_possible(f"{_host(address)}:{port}" for address in addresses for port in ports))


def _possible(texts: Iterable[str]) -> list[str]:
    """Without what no sandbox could be tried against, such as a resolver on the pod's own loopback."""
    found = []
    for text in texts:
        with contextlib.suppress(InvalidInput):
            found.append(possible_canary(text).spell())
    return found


def _name_servers(resolver: pathlib.Path) -> list[str]:
    with contextlib.suppress(OSError):
        lines = [line.split() for line in resolver.read_text().splitlines()]
        return [words[1] for words in lines if len(words) > 1 and words[0] == "nameserver"]
    return []


def _own_address(connection: Connection) -> str:
    """The address with which this pod speaks to the API server."""
    server = urllib.parse.urlsplit(connection.server)
    family = socket.AF_INET6 if ":" in (server.hostname or "") else socket.AF_INET
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.connect((server.hostname, server.port or 443))  # a datagram socket sends nothing for that
        return str(sock.getsockname()[0])
    return ""


def _host(address: str) -> str:
    return f"[{address}]" if ":" in address else address
