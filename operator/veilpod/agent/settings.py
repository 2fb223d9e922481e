"""Where an agent finds what it needs, as the pod's manifest says. Paths are the pod's own; tests give others."""

import dataclasses
import pathlib

from veilpod.agent.netguard import Endpoint
from veilpod.core.canary import Canary

ROOT = pathlib.Path("/veilpod")


def unix_address(text: str) -> str:
    """What the kernel calls a unix socket: a path, or zero and an abstract name."""
    return "\0" + text[1:] if text.startswith("@") else text


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Arguments of `python -m veilpod.agent run`. Endpoints are ip and port; ports 0 take any.

    Sockets are unix sockets: a path, or @ and an abstract name. The pod's are abstract: they live in the network namespace that its
    containers share, also under gVisor, where a socket file in a shared volume is not the same socket in two containers.
    """

    control: Endpoint
    ready: Endpoint  # the startup probe's port: opens when the inputs are verified
    operator_cert: bytes
    allow: tuple[Endpoint, ...]
    canaries: tuple[Canary, ...]
    tier: str = "T0"  # what the kernel that was found lets a sandbox state
    inputs: pathlib.Path = ROOT / "in"
    outputs: pathlib.Path = ROOT / "out"
    scratch: pathlib.Path = ROOT / "scratch"
    binaries: pathlib.Path = ROOT / "bin"
    program_socket: str = "@veilpod-program"
    seal_socket: str = "@veilpod-seal"
    marker: pathlib.Path = ROOT / "life" / "born"
    pod_uid: pathlib.Path = ROOT / "pod" / "uid"
    launcher: pathlib.Path = pathlib.Path("/opt/veilpod/bin/launch")
    loopback: str = "127.0.0.1"  # where the program and the agent find each other
    netguard_seconds: float = 60.0
    probe_seconds: float = 1.0
    guard_seconds: float = 30.0
    release_seconds: float = 30.0  # from `release` to the pod's end, when no `zeroise` comes before
