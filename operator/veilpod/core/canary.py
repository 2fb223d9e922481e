"""Addresses that a sandbox must not reach, as people spell them. Pure.

    169.254.169.254:80        TCP, as `tcp://169.254.169.254:80` is
    udp://10.96.0.10:53       UDP: asked as a name server is
    [fd00:ec2::254]:80        IPv6
    node:10250                the sandbox's own node, whatever its addresses are: only the pod learns them

A canary that is reached in every network, or in none, proves nothing: `possible_canary` refuses it.
"""

import dataclasses
import ipaddress
from collections.abc import Iterable

from veilpod.errors import InvalidInput

NODE = "node"
NODE_VARIABLE = "VEILPOD_NODE"  # of the environment: the pod's manifest fills it with the node's addresses, with commas between
PROTOCOLS = ("tcp", "udp")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Canary:
    """`host` is an IP address, or NODE."""

    protocol: str = "tcp"
    host: str
    port: int

    def spell(self) -> str:
        """The one spelling: plain for TCP."""
        place = f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
        return place if self.protocol == "tcp" else f"{self.protocol}://{place}"


def parse_canary(text: str) -> Canary:
    """Read a canary. Raises InvalidInput("ImpossibleCanary") with what to correct."""
    scheme, separator, place = text.rpartition("://")
    protocol = scheme if separator else "tcp"
    host, _, number = place.rpartition(":")
    try:
        port = int(number) if number.isascii() and number.isdecimal() else 0
        if protocol not in PROTOCOLS or not 0 < port < 65536:
            raise ValueError
        if host == NODE:
            return Canary(protocol=protocol, host=NODE, port=port)
        address = ipaddress.ip_address(host[1:-1] if host.startswith("[") and host.endswith("]") else host)
        if (":" in host) != host.startswith("["):
            raise ValueError
    except ValueError as error:
        spelling = "write a canary as ip:port, [ipv6]:port or node:port, with udp:// before it for UDP"
        raise InvalidInput("ImpossibleCanary", f"{spelling}: {text[:60]!r}") from error
    return Canary(protocol=protocol, host=str(address), port=port)


def possible_canary(text: str) -> Canary:
    """Read a canary that somebody wishes for. Raises InvalidInput("ImpossibleCanary") for one that no fence could block, too."""
    canary = parse_canary(text)
    if canary.host != NODE and (problem := _impossible(ipaddress.ip_address(canary.host))):
        raise InvalidInput("ImpossibleCanary", f"{text[:60]!r} proves nothing: {problem}")
    return canary


def on_node(canaries: Iterable[Canary], addresses: Iterable[str]) -> tuple[Canary, ...]:
    """The same with the node's addresses in place of NODE. Raises InvalidInput when one is on the node and nobody says where that is."""
    known = [str(ipaddress.ip_address(address)) for address in addresses]
    found: dict[Canary, None] = {}
    for canary in canaries:
        if canary.host == NODE and not known:
            raise InvalidInput("ImpossibleCanary", "a canary is on the sandbox's own node, and the pod was not told its address")
        for host in known if canary.host == NODE else [canary.host]:
            found[dataclasses.replace(canary, host=host)] = None
    return tuple(found)


def _impossible(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    if address.is_loopback or address.is_unspecified:
        return "it is the sandbox itself, which it always reaches"
    if address.is_multicast or str(address) == "255.255.255.255":
        return "it is no single address"
    if isinstance(address, ipaddress.IPv6Address):
        if address.is_link_local:
            return "a link-local IPv6 address means nothing without its link"
        if address.ipv4_mapped is not None:
            return "write an IPv4 address as one"
    return ""
