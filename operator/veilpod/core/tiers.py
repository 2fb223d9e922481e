"""Tiers of the claim ladder: which kernel a sandbox found itself on, and what it may therefore state. Pure (paper step 4).

A tier is what was observed from inside, never what a field promised. It shows a mistake (a handler that is runc, a node without the
runtime), not a lie: who controls the node can imitate any mark, and only T3 would tell. A virtual machine as such is no mark, for the
node may be one itself; a VM runtime other than Kata is therefore not recognised, and claims T0.
"""

import dataclasses
import enum

from veilpod.errors import Refused

RUNGS = ("T0", "T1", "T2", "T3")
OBSERVABLE = RUNGS[:2]  # from inside, as to the kernel


class Kernel(enum.Enum):
    """What lies between a sandbox and its host."""

    SHARED = "the host's own kernel, or one that cannot be told from it"
    GVISOR = "gVisor"
    KATA = "Kata Containers"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Marks:
    """What can be read from inside: the kernel's log (empty where it is closed) and its command line."""

    log: bytes
    command_line: str


def recognise(marks: Marks) -> Kernel:
    """Name the kernel. gVisor's says so in its log; a Kata guest is booted into a target of that name."""
    if b"Starting gVisor" in marks.log:
        return Kernel.GVISOR
    if "systemd.unit=kata-containers.target" in marks.command_line.split():
        return Kernel.KATA
    return Kernel.SHARED


def tier_on(kernel: Kernel) -> str:
    """The tier that a sandbox on this kernel states."""
    return "T0" if kernel is Kernel.SHARED else "T1"


def rung(tier: str, *, host_access_denied: bool) -> str:
    """How high a statement climbs: T2 is T1 behind policies that keep the cluster's own people out."""
    return "T2" if reaches(tier, "T1") and host_access_denied else tier


def reaches(observed: str, promised: str) -> bool:
    """Whether a tier is as high as another one."""
    return RUNGS.index(observed) >= RUNGS.index(promised)


def check_promise(*, observed: str, promised: str) -> None:
    """Raise Refused("RuntimeMismatch") when less was observed than the SandboxClass promises."""
    if not reaches(observed, promised):
        raise Refused("RuntimeMismatch", f"this sandbox was promised {promised}, and what is seen from inside is {observed}")
