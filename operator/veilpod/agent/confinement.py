"""Whether this node can keep the program away from the network that its agent uses (operator/launcher/confine.h, ADR 19).

The launcher confines the program and starts nothing that it cannot confine; asking the same kernel before any key exists spares the data.
"""

import ctypes
from collections.abc import Sequence

from veilpod.errors import Refused

_LANDLOCK_CREATE_RULESET = 444
_ABI_QUERY = 1
_ABI_NETWORK = 4  # Linux 6.7


def confines(ports: Sequence[int], *, required: bool) -> bool:
    """Whether the program will be kept to its ports. Without any it gets no TCP socket, on every kernel; with them it takes Landlock.

    Raises Refused("ProgramNotConfined") when it will not, and the SandboxClass requires it.
    """
    confined = not ports or _landlock_abi() >= _ABI_NETWORK
    if required and not confined:
        raise Refused("ProgramNotConfined", "this kernel cannot bind the program to its ports: it needs Landlock of Linux 6.7 or newer")
    return confined


def _landlock_abi() -> int:
    """What this kernel's Landlock can do, as seen from this container; negative where there is none."""
    return int(ctypes.CDLL(None, use_errno=True).syscall(_LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), _ABI_QUERY))
