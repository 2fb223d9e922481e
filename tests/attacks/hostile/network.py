"""Anything that leads out of the pod, by every protocol that there is a socket for."""

import contextlib
import socket
import struct

from hostile.calls import call
from hostile.registry import SECONDS, Surroundings, attempt


def tcp(host: str, port: int, family: int = socket.AF_INET, protocol: int = 0) -> str:
    with socket.socket(family, socket.SOCK_STREAM, protocol) as made:
        made.settimeout(SECONDS)
        made.connect((host, port))
        return "connected"


def udp(host: str, port: int, question: bytes) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.settimeout(SECONDS)
        made.sendto(question, (host, port))
        return f"{len(made.recv(4096))} bytes came back"


@attempt()
def dials_a_relay_itself(at: Surroundings) -> str:
    return tcp(at["relay"], 9001)


@attempt()
def dials_a_relay_over_IPv6(at: Surroundings) -> str:
    return tcp(f"::ffff:{at['relay']}", 9001, socket.AF_INET6)


@attempt()
def dials_a_relay_by_MPTCP(at: Surroundings) -> str:
    return tcp(at["relay"], 9001, protocol=262)


@attempt(shown=False)
def dials_a_relay_by_SCTP(at: Surroundings) -> str:
    return tcp(at["relay"], 9001, protocol=132)


@attempt()
def dials_a_relay_with_data_in_the_SYN(at: Surroundings) -> str:
    with socket.socket() as made:
        return f"{made.sendto(b'x', 0x20000000, (at['relay'], 9001))} bytes sent"


@attempt()
def dials_another_pod(at: Surroundings) -> str:
    return tcp(at["other"], 8080)


@attempt()
def dials_another_pod_on_a_port_of_its_own(at: Surroundings) -> str:
    return tcp(at["other"], at["port"])


@attempt()
def dials_the_control_port_of_another_pod(at: Surroundings) -> str:
    return tcp(at["other"], 7443)


@attempt()
def dials_a_node_port(at: Surroundings) -> str:
    return tcp(at["node"], at["nodeport"])


@attempt()
def dials_the_API_server_by_its_service(at: Surroundings) -> str:
    return tcp(at["api"], 443)


@attempt()
def dials_the_API_server_on_its_node(at: Surroundings) -> str:
    return tcp(at["node"], 6443)


@attempt()
def dials_the_kubelet(at: Surroundings) -> str:
    return tcp(at["node"], 10250)


@attempt(shown=False)
def dials_the_metadata_service(at: Surroundings) -> str:
    return tcp("169.254.169.254", 80)


@attempt()
def dials_the_DNS_by_TCP(at: Surroundings) -> str:
    return tcp(at["dns"], 53)


@attempt()
def asks_the_DNS_by_UDP(at: Surroundings) -> str:
    name = b"".join(bytes([len(part)]) + part for part in (b"kubernetes", b"default", b"svc", b"cluster", b"local"))
    return udp(at["dns"], 53, struct.pack(">HHHHHH", 7, 0x100, 1, 0, 0, 0) + name + b"\0" + struct.pack(">HH", 1, 1))


@attempt()
def resolves_a_name(at: Surroundings) -> str:
    return str(len(socket.getaddrinfo("kubernetes.default.svc.cluster.local", 443)))


@attempt()
def sends_another_pod_a_datagram(at: Surroundings) -> str:
    return udp(at["other"], 8080, b"echo")


@attempt()
def shouts_to_the_whole_network(at: Surroundings) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        return f"{made.sendto(b'x', ('255.255.255.255', 9))} bytes sent"


@attempt()
def pings(at: Surroundings) -> str:
    packet = struct.pack(">BBHHH", 8, 0, (~(0x0800 + 7)) & 0xFFFF, 7, 0)
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as made:
        made.settimeout(SECONDS)
        made.sendto(packet, (at["other"], 0))
        return f"{len(made.recv(100))} bytes came back"


@attempt()
def pings_without_privilege(at: Surroundings) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP) as made:
        return f"{made.sendto(struct.pack('>BBHHH', 8, 0, 0, 7, 0), (at['other'], 0))} bytes sent"


@attempt()
def writes_frames(at: Surroundings) -> str:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0):
        return "a packet socket"


@attempt()
def asks_for_addresses_and_routes(at: Surroundings) -> str:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0):
        return "a netlink socket"


@attempt(shown=False)
def speaks_to_the_hypervisor(at: Surroundings) -> str:
    with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM):
        return "a vsock"


@attempt()
def has_io_uring_make_its_sockets(at: Surroundings) -> str:
    return f"a ring: {call('io_uring_setup', 4, bytes(120))}"


@attempt()
def listens_for_others(at: Surroundings) -> str:
    with socket.create_server(("0.0.0.0", 8081)):
        return "a port that is not the task's"


@attempt()
def dials_the_agents_control_port(at: Surroundings) -> str:
    return tcp("127.0.0.1", 7443)


@attempt()
def dials_the_startup_probe(at: Surroundings) -> str:
    return tcp("127.0.0.1", 7444)


def unix(name: str) -> str:
    with socket.socket(socket.AF_UNIX) as made:
        made.settimeout(SECONDS)
        made.connect("\0" + name)
        with contextlib.suppress(TimeoutError):
            return f"connected, {len(made.recv(10))} bytes came"
        return "connected"


@attempt()
def speaks_as_the_launcher(at: Surroundings) -> str:
    return unix("veilpod-program")


@attempt()
def asks_for_the_pods_outcome(at: Surroundings) -> str:
    return unix("veilpod-seal")


@attempt(stopped_by="none")
def learns_the_pods_address(at: Surroundings) -> str:
    with open("/etc/hosts") as hosts:
        return "its address" if any(line.split()[-1:] == ["sandbox"] for line in hosts) else ""


@attempt(stopped_by="none")
def learns_which_relays_the_agent_uses(at: Surroundings) -> str:
    relay = struct.pack("<I", int.from_bytes(socket.inet_aton(at["relay"]), "big")).hex().upper()
    with open("/proc/net/tcp") as table:
        return "a relay's address" if any(line.split()[2].startswith(relay) for line in table.readlines()[1:]) else ""
