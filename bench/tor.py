"""A Tor network of its own on loopback, to stand beside ours: an authority, three relays, a client whose circuits go through those three.

Debian's Tor, unpacked and not installed. What Tor does beyond us, and we do not claim to beat it at: TLS on every link and congestion
control for a network of thousands. Its settings are those of a test network (so that it starts in seconds) and, for the tuned one,
`Schedulers Vanilla`, which on one machine is several times faster than the default KIST.
"""

import asyncio
import contextlib
import os
import pathlib
import re
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Sequence

from tests.support.relay_processes import free_ports

from bench.ways import PIECE, Plain
from localcluster import toolchain

HOPS = 3
_START_SECONDS = 180
_LIBRARIES = "libevent-2.1-7"  # what a Debian machine may lack of what Tor needs

_COMMON = """
TestingTorNetwork 1
DataDirectory {data}
Nickname {name}
PidFile {data}/pid
Log notice file {data}/log
SafeLogging 0
ShutdownWaitLength 0
AssumeReachable 1
Address 127.0.0.1
PathsNeededToBuildCircuits 0.25
V3AuthNIntervalsValid 2
"""
_AUTHORITY = """
SocksPort 0
AuthoritativeDirectory 1
V3AuthoritativeDirectory 1
ContactInfo nobody@localhost
TestingV3AuthInitialVotingInterval 5
TestingV3AuthInitialVoteDelay 2
TestingV3AuthInitialDistDelay 2
V3AuthVotingInterval 20
V3AuthVoteDelay 4
V3AuthDistDelay 4
TestingDirAuthVoteExit *
TestingDirAuthVoteGuard *
TestingDirAuthVoteHSDir *
TestingMinExitFlagThreshold 0
ExitPolicy reject *:*
"""
_RELAY = """
SocksPort 0
ExitRelay 1
ExitPolicyRejectPrivate 0
ExitPolicy accept *:*
"""


class TorNetwork:
    """A running network: `open` is a connection through the client, `relays` the processes whose CPU counts."""

    def __init__(self, socks: int, relays: list[int], server: int) -> None:
        self.relays = relays
        self._socks, self._server = socks, server

    async def open(self) -> Plain:
        """Connect to the server through three hops (SOCKS5, RFC 1928)."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._socks, limit=PIECE)
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        writer.write(b"\x05\x01\x00")
        if await reader.readexactly(2) != b"\x05\x00":
            raise RuntimeError("Tor's client speaks no SOCKS5")
        writer.write(b"\x05\x01\x00\x01" + socket.inet_aton("127.0.0.1") + struct.pack(">H", self._server))
        answer = await reader.readexactly(10)
        if answer[1]:
            raise RuntimeError(f"Tor does not connect: SOCKS5 error {answer[1]}")
        return Plain(reader, writer)


class _Node:
    """One tor process: its directory, its ports, its torrc."""

    def __init__(self, root: pathlib.Path, name: str) -> None:
        self.name, self.data = name, root / name
        self.data.mkdir(mode=0o700)
        self.port, self.directory = free_ports(2)
        self.process: subprocess.Popen[bytes] | None = None

    def command(self, *arguments: str) -> list[str]:
        return [str(toolchain.unpacked("tor") / "usr/bin/tor"), "-f", str(self.data / "torrc"), "--quiet", *arguments]

    def configure(self, *parts: str) -> None:
        """Write the torrc."""
        (self.data / "torrc").write_text("".join([_COMMON.format(name=self.name, data=self.data), *parts]))

    def fingerprint(self) -> str:
        """Make the relay's keys and return what others know it by."""
        self.configure(f"ORPort 127.0.0.1:{self.port}\n", f"DirAuthority nobody 127.0.0.1:1 {'F' * 40}\n")
        told = subprocess.run(self.command("--list-fingerprint"), env=_environment(), capture_output=True, text=True, check=True)
        return told.stdout.strip().removeprefix(self.name).replace(" ", "").splitlines()[-1]

    def start(self) -> None:
        self.process = subprocess.Popen(self.command(), env=_environment(), stdin=subprocess.DEVNULL)

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    @property
    def log(self) -> str:
        file = self.data / "log"
        return file.read_text(errors="replace") if file.exists() else ""


@contextlib.asynccontextmanager
async def tor_network(schedulers: str, server: int) -> AsyncIterator[TorNetwork]:
    """Run a network in front of a server of this machine.

    Its processes have one tuning: "KIST,KISTLite,Vanilla" is Tor's default, "Vanilla" the fast one.
    """
    with tempfile.TemporaryDirectory(prefix="tor-") as scratch:
        root = pathlib.Path(scratch)
        authority, client = _Node(root, "authority"), _Node(root, "client")
        relays = [_Node(root, f"relay{number}") for number in range(HOPS)]
        line = f"DirAuthority authority orport={authority.port} no-v2 v3ident={_certify(authority)} 127.0.0.1:{authority.directory} "
        common = f"{line}{authority.fingerprint()}\nSchedulers {schedulers}\n"
        path = [relay.fingerprint() for relay in relays]
        authority.configure(common, _AUTHORITY, f"ORPort 127.0.0.1:{authority.port}\nDirPort 127.0.0.1:{authority.directory}\n")
        for relay in relays:
            relay.configure(common, _RELAY, f"ORPort 127.0.0.1:{relay.port}\n")
        choice = "".join(f"{place}Nodes ${node}\n" for place, node in zip(("Entry", "Middle", "Exit"), path, strict=True))
        client.configure(common, f"SocksPort 127.0.0.1:{client.port}\nStrictNodes 1\n{choice}")
        nodes = [authority, *relays, client]
        try:
            for node in nodes:
                node.start()
            await _bootstrapped(nodes)
            yield TorNetwork(client.port, [relay.process.pid for relay in relays if relay.process is not None], server)
        finally:
            for node in nodes:
                node.stop()


async def _bootstrapped(nodes: Sequence[_Node]) -> None:
    """Wait until the last node, the client, says that circuits can be built."""
    limit = time.monotonic() + _START_SECONDS
    while "Bootstrapped 100%" not in nodes[-1].log:
        ended = [node for node in nodes if node.process is not None and node.process.poll() is not None]
        if ended or time.monotonic() > limit:
            node = (ended or nodes[-1:])[0]
            raise RuntimeError(f"Tor's {node.name} did not start:\n{node.log[-2000:]}")
        await asyncio.sleep(0.25)


def _certify(authority: _Node) -> str:
    """Make the authority's keys; return the fingerprint of the one that signs its votes."""
    keys = authority.data / "keys"
    keys.mkdir(mode=0o700)
    files = {option: str(keys / name) for option, name in _KEY_FILES.items()}
    subprocess.run(
        [
            *(str(toolchain.unpacked("tor") / "usr/bin/tor-gencert"), "--create-identity-key", "--passphrase-fd", "0"),
            *(word for pair in files.items() for word in pair),
            *("-m", "12", "-a", f"127.0.0.1:{authority.directory}"),
        ],
        env=_environment(), input=b"of no worth\n", capture_output=True, check=True,
    )  # fmt: skip
    found = re.search(r"^fingerprint (\w{40})$", pathlib.Path(files["-c"]).read_text(), re.MULTILINE)
    if found is None:
        raise RuntimeError("tor-gencert made a certificate without a fingerprint")
    return found[1]


_KEY_FILES = {"-i": "authority_identity_key", "-s": "authority_signing_key", "-c": "authority_certificate"}


def _environment() -> dict[str, str]:
    libraries = [str(each.parent) for each in toolchain.unpacked(_LIBRARIES).glob("usr/lib/*/libevent-2*.so.*")]
    return os.environ | {"LD_LIBRARY_PATH": os.pathsep.join(sorted(set(libraries)))}
