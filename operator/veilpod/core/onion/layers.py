"""Layers: nested AES-128-GCM per hop, sealed and opened in place, with a strictly increasing counter per direction.

A layer is keyed by the seed of the hop's handshake. Nonce = 4-byte salt || u64 counter, AAD = command, flags, class, direction. Each cell
of a direction is sealed and opened exactly once and in order, so a replayed, reordered, dropped or altered cell fails at the next party
that opens it. After 2^24 cells the direction's secret is ratcheted forward (HKDF). Whoever opens or adds a layer overwrites the whole
tail of the body with fresh random bytes: otherwise the fill would be an exact fingerprint from link to link. Paper step 5.

Errors name no cause beyond "tampered": the caller knows which link to blame.
"""

from collections.abc import Callable, Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from veilpod.core.onion import ntor
from veilpod.core.onion.cells import LAYERED, Command
from veilpod.core.onion.geometry import GEOMETRY, MESSAGE_HEADER, SESSION_HEADER, TAG, CellClass, Geometry
from veilpod.core.onion.legs import Numbers, parse_numbers
from veilpod.core.onion.messages import Message, RelayCommand, check_kind, parse_message, put_forward_header, put_message

FORWARD = 0
BACKWARD = 1
RATCHET_CELLS = 1 << 24
Random = Callable[[int], bytes]


class TamperedError(Exception):
    """A layer did not open. `layer` is the index of the hop whose layer it was (0 is the guard)."""

    def __init__(self, layer: int = 0) -> None:
        super().__init__("a layer did not open")
        self.layer = layer


class Direction:
    """One hop's keys in one direction, with its counter. Sealing and opening are the same counter seen from two ends."""

    def __init__(self, secret: bytes, *, direction: int, ratchet: int = RATCHET_CELLS) -> None:
        self._ratchet = ratchet
        self._counter = 0
        self._aad = {(command, kind): bytes((command, 0, kind, direction)) for command in LAYERED for kind in CellClass}
        self._load(secret)

    def seal(self, body: memoryview, size: int, kind: CellClass, command: Command = Command.RELAY) -> None:
        """Seal the first `size` bytes of a body in place; the tag lands behind them."""
        nonce = self._nonce()  # first: it may ratchet the key
        self._aead.encrypt_into(nonce, body[:size], self._aad[command, kind], body[: size + TAG])

    def open(self, body: memoryview, size: int, kind: CellClass, command: Command = Command.RELAY) -> None:
        """Open in place what `seal` made of `size` bytes. Raises TamperedError; the direction is unusable afterwards."""
        nonce = self._nonce()
        try:
            self._aead.decrypt_into(nonce, body[: size + TAG], self._aad[command, kind], body[:size])
        except InvalidTag as error:
            raise TamperedError from error

    def _nonce(self) -> bytes:
        if self._counter and self._counter % self._ratchet == 0:
            self._load(ntor.expand(self._secret, "ratchet", 32))
        nonce = self._salt + self._counter.to_bytes(8, "big")
        self._counter += 1
        return nonce

    def _load(self, secret: bytes) -> None:
        self._secret = secret
        self._aead = AESGCM(ntor.expand(secret, "key", 16))
        self._salt = ntor.expand(secret, "salt", 4)


class HopKeys:
    """Everything that one handshake gives: two directions, the keys of its failure report and of the next hop's answer.

    Of a meeting's first handshake also the session's id, and the key by which its further legs are known.
    """

    def __init__(self, seed: bytes, *, ratchet: int = RATCHET_CELLS) -> None:
        self.forward = Direction(ntor.expand(seed, "forward", 32), direction=FORWARD, ratchet=ratchet)
        self.backward = Direction(ntor.expand(seed, "backward", 32), direction=BACKWARD, ratchet=ratchet)
        self.report_key, self.answer_key = ntor.expand(seed, "report", 16), ntor.expand(seed, "answer", 16)
        self.session_id, self.leg_key = ntor.expand(seed, "session", 32), ntor.expand(seed, "leg", 32)


def refill(body: memoryview, used: int, random: Random) -> None:
    """Overwrite what is behind the first `used` bytes with fresh random bytes."""
    if used < len(body):
        body[used:] = random(len(body) - used)


def relay_open(keys: HopKeys, body: memoryview, position: int, geometry: Geometry, command: Command, random: Random) -> None:
    """Take a hop's layer off a forward cell, in place, ready for the next link. Raises TamperedError."""
    size = geometry.plain(position)
    keys.forward.open(body, size, geometry.kind, command)
    refill(body, size, random)


def relay_seal(keys: HopKeys, body: memoryview, position: int, geometry: Geometry, random: Random) -> None:
    """Put a hop's layer on a backward cell, in place, ready for the previous link."""
    size = geometry.plain(position)
    keys.backward.seal(body, size, geometry.kind)
    refill(body, size + TAG, random)


def client_seal(hops: Sequence[HopKeys], body: memoryview, geometry: Geometry, command: Command = Command.RELAY) -> None:
    """Put all layers on a message that lies in the first `geometry.plain(len(hops))` bytes of a body."""
    for position in range(len(hops), 0, -1):
        hops[position - 1].forward.seal(body, geometry.plain(position), geometry.kind, command)


def client_open(hops: Sequence[HopKeys], body: memoryview, geometry: Geometry) -> None:
    """Take all layers off a backward cell. Raises TamperedError with the layer that did not open."""
    for position, hop in enumerate(hops, 1):
        try:
            hop.backward.open(body, geometry.plain(position), geometry.kind)
        except TamperedError as error:
            raise TamperedError(position - 1) from error


def put_end_to_end(
    key: Direction,
    area: memoryview,
    geometry: Geometry,
    numbers: Numbers,
    command: RelayCommand,
    data: bytes | memoryview,
    *,
    flags: int,
    stream_id: int,
) -> None:
    """Write a message sealed to the other end of a session into a FORWARD message that fills an area. No copy but the data's."""
    inner = area[MESSAGE_HEADER : MESSAGE_HEADER + geometry.data_max]
    numbers.put(inner)
    put_message(inner[SESSION_HEADER : geometry.inner_plain], command, data, flags=flags, stream_id=stream_id)
    key.seal(inner, geometry.inner_plain, geometry.kind)
    put_forward_header(area, geometry.data_max)


def open_end_to_end(key: Direction, data: memoryview, circuit: CellClass) -> tuple[Numbers, Message]:
    """Open the data of a FORWARD message of a circuit in place. Raises TamperedError, ProtocolViolation for what the other end wrote."""
    geometry = next((each for each in GEOMETRY.values() if each.data_max == len(data)), None)
    if geometry is None:
        raise TamperedError
    key.open(data, geometry.inner_plain, geometry.kind)
    message = parse_message(data[SESSION_HEADER : geometry.inner_plain])
    check_kind(message.command, geometry.kind, circuit)
    return parse_numbers(data), message
