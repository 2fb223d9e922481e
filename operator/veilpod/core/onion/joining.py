"""Joining relays: one CREATE for several hops, each hop's part readable by that hop alone.

A CREATE carries, sealed under its handshake's first key, the EXTEND that takes the circuit on; so three hops take one round trip. The
answers come back nested in the same way. A hop that could not reach the next one answers for itself alone and then ends the circuit with
its report. Paper step 5.

Pure: ephemerals are arguments.
"""

import dataclasses
import functools
from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from veilpod.core.onion import ntor
from veilpod.core.onion.directory import RelayEntry
from veilpod.core.onion.geometry import LINK_PLAIN, TAG, CellClass
from veilpod.core.onion.layers import HopKeys
from veilpod.core.onion.messages import Create, Created, Extend, parse_extend
from veilpod.errors import ProtocolViolation

ONE_SHOT = 3  # hops: more do not fit one SMALL cell
ANSWER_MAX = LINK_PLAIN - ntor.REPLY - 4 - TAG  # bytes of a CREATED that still fit, sealed, into the one before it
_NONCE = bytes(12)  # every key here seals one message
_CREATE, _CREATED = b"veilpod-onward-create-1", b"veilpod-onward-created-1"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Joining:
    """A client's handshake with one relay, under way."""

    entry: RelayEntry
    position: int
    cell_class: CellClass
    ephemeral: ntor.Ephemeral

    @functools.cached_property
    def target(self) -> ntor.Target:
        """Whom the handshake is with."""
        context = self._create(b"", b"").context
        return ntor.Target(identity_key=self.entry.identity_key, onion_key=self.entry.onion_key, context=context)

    def extend(self, onward: "Extend | None") -> Extend:
        """Return what takes a circuit to this relay, and from it to the next one if there is one."""
        skin, sealed = ntor.onionskin(self.target, self.ephemeral), b""
        if onward is not None:
            sealed = AESGCM(ntor.onward_key(self.target, self.ephemeral)).encrypt(_NONCE, onward.pack(), _CREATE)
        return Extend(node_id=self.entry.node_id, identity_key=self.entry.identity_key, create=self._create(skin, sealed).pack())

    def finish(self, created: Created) -> bytes:
        """Check the relay's answer. Returns the seed. Raises ProtocolViolation("BadHandshake")."""
        return ntor.finish(self.target, created.reply, ephemeral=self.ephemeral)

    def _create(self, onionskin: bytes, onward: bytes) -> Create:
        epoch = self.entry.key_epoch
        return Create(cell_class=self.cell_class, position=self.position, key_epoch=epoch, onionskin=onionskin, onward=onward)


def nest(hops: Sequence[Joining]) -> Extend:
    """Return what takes a circuit to all these relays, one behind the other. At least one."""
    inner = None
    for hop in reversed(hops):
        inner = hop.extend(inner)
    assert inner is not None
    return inner


def open_onward(create: Create, key: bytes) -> Extend | None:
    """Return where a CREATE takes the circuit next, or None if it ends here. Raises ProtocolViolation("BadCreate", "BadExtend")."""
    return parse_extend(_open(key, create.onward, _CREATE)) if create.onward else None


def seal_answer(keys: HopKeys, created: bytes) -> bytes:
    """Seal the next hop's CREATED payload to the client."""
    return AESGCM(keys.answer_key).encrypt(_NONCE, created, _CREATED)


def open_answer(keys: HopKeys, sealed: bytes) -> bytes:
    """Open what `seal_answer` made. Raises ProtocolViolation("BadCreate")."""
    return _open(keys.answer_key, sealed, _CREATED)


def _open(key: bytes, sealed: bytes, what: bytes) -> bytes:
    try:
        return AESGCM(key).decrypt(_NONCE, sealed, what)
    except InvalidTag as error:
        raise ProtocolViolation("BadCreate", "a handshake whose nested part does not open") from error
