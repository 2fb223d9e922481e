"""Meeting: how two ends find each other at a relay, once and again, and agree on the keys of each leg (paper step 5).

The host (`host`) leaves a cookie at a relay (ESTABLISH) and waits; the guest (`guest`) names it (JOIN) and the relay splices the two
circuits, once. The guest's onionskin goes through as MEET, the host's answer comes back as MET: an ntor handshake with the descriptor's
service key. Then the guest says LINK: this leg begins a session, or belongs to one whose key it has. The first cookie is the
descriptor's; when that meeting fails, or a session needs another leg, both ends look at the places that follow from the descriptor
(`core.onion.legs`). Here is what both have in common.
"""

from collections.abc import Collection, Sequence
from typing import Protocol

from veilpod.core.ids import NodeId
from veilpod.core.onion import ntor
from veilpod.core.onion.legs import Place
from veilpod.core.onion.messages import Create
from veilpod.net.circuit import Circuit

MEET_SECONDS = 30.0
AGAIN_SECONDS = 5.0  # at one of several places
PAUSES = (0.1, 0.2, 0.5, 1.0, 2.0)


class End(Protocol):
    """What an onion proxy ends when it is closed."""

    def abort(self) -> None: ...


class Paths(Protocol):
    """What a meeting needs of its onion proxy."""

    @property
    def constant_rate(self) -> int:
        """Bytes a second of each leg, whatever is said; 0 for as they come."""

    async def build(self, purpose: str, *, last: NodeId, avoid: Collection[NodeId] = ()) -> Circuit: ...
    def places(self, *, cookie: bytes, service_key: bytes, avoid: Collection[NodeId]) -> Sequence[Place]: ...
    def watch(self, end: End) -> None:
        """Abort it when the proxy is closed."""


def target_of(circuit: Circuit, cookie: bytes, service_key: bytes) -> ntor.Target:
    """Whom a guest's handshake is for. The cookie stands where a relay's identity does: it is good for this meeting only."""
    context = Create(cell_class=circuit.cell_class, position=0, key_epoch=0, onionskin=b"").context
    return ntor.Target(identity_key=cookie.ljust(32, b"\0"), onion_key=service_key, context=context)
