"""Whether this node can keep the program away from the network that its agent uses (operator/launcher/confine.h, ADR 19).

The launcher confines the program and starts nothing that it cannot confine; asking the same kernel before any key exists spares the data.
"""

import ctypes
from collections.abc import Sequence

from veilpod.errors import Refused

_LANDLOCK_CREATE_RULESET = 444
_ABI_QUERY = 1
_ABI_NETWORK = 4  # Linux 6.7


def check(ports: Sequence[int]) -> None:
    """Without ports a program gets no TCP socket, on any kernel. With them, Landlock must rule ports: Refused("ProgramNotConfined")."""
    if ports and _landlock_abi() < _ABI_NETWORK:
        raise Refused("ProgramNotConfined", "this kernel cannot bind the program to its ports: it needs Landlock of Linux 6.7 or newer")


def _landlock_abi() -> int:
    """What this kernel's Landlock can do, as seen from this container; negative where there is none."""
    return int(ctypes.CDLL(None, use_errno=True).syscall(_LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), _ABI_QUERY))
