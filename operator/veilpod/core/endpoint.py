"""Where somebody listens, as text: an IP address and a port, never a DNS name. Imports next to nothing, as netguard must start at once."""

import ipaddress

from veilpod.errors import ProtocolViolation


def parse_endpoint(endpoint: str) -> tuple[str, int]:
    """Read "ip:port" (IPv6 in brackets), never a DNS name. Raises ProtocolViolation("BadRelayEntry")."""
    host, _, port = endpoint.rpartition(":")
    try:
        address, number = ipaddress.ip_address(host.strip("[]")), int(port)
        if not 0 < number < 65536:
            raise ValueError("port")
    except ValueError as error:
        raise ProtocolViolation("BadRelayEntry", f"not an ip:port: {endpoint[:60]!r}") from error
    return str(address), number


def spell_endpoint(host: str, port: int) -> str:
    """The one spelling of an endpoint, for exit policies: the address as `ipaddress` writes it."""
    host, port = parse_endpoint(f"[{host.strip('[]')}]:{port}")
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
