"""Two parties of a channel, and receipts between their sandboxes, for tests of everything that handles channel states."""

import dataclasses
import hashlib
from typing import Any

from tests.support.anvil import Anvil

from veilpod.core.canonical import keccak256
from veilpod.core.channel.machine import Machine, Party
from veilpod.core.channel.rules import Link
from veilpod.core.channel.state import ChannelState, channel_id, opening_state, order, parse_word
from veilpod.core.entities import ChannelPhase, ChannelTerms
from veilpod.core.ids import Address, ChannelId, ServerIndex, TaskId
from veilpod.core.keys import SigningKey, checksum_address
from veilpod.core.receipt import Receipt, Transcript
from veilpod.core.typed_data import Domain

MIB = 1 << 20
TASK = TaskId(keccak256(b"a task"))
SANDBOXES = (SigningKey(secret=keccak256(b"sandbox a")), SigningKey(secret=keccak256(b"sandbox b")))
TERMS = ChannelTerms(asset=Address(checksum_address(bytes(20))), lane=7, challenge_period=3600, penalty_bps=0)
_KEYS = {key.address: key for key in (SigningKey(secret=keccak256(b"one")), SigningKey(secret=keccak256(b"two")))}
A, B = order(*_KEYS)
KEYS = {Party.A: _KEYS[A], Party.B: _KEYS[B]}
CHANNEL = channel_id(A, B, TERMS)
DOMAIN = Domain(chain_id=31337, contract=checksum_address(b"\x11" * 20))


def link(*, price: int = 1000) -> Link:
    return Link(
        channel=CHANNEL, domain=DOMAIN, task=TASK, servers=(ServerIndex(0), ServerIndex(1)), a=A, b=B,
        sandbox_a=SANDBOXES[0].address, sandbox_b=SANDBOXES[1].address, price=price,
    )  # fmt: skip


def opening(*, deposit_a: int = 10_000, deposit_b: int = 10_000) -> ChannelState:
    return opening_state(epoch=1, deposit_a=deposit_a, deposit_b=deposit_b)


def paid(node: Anvil, channel: ChannelId) -> tuple[int, int]:
    """What the closing of a channel has just paid to a and b, from the newest event of the chain's channels."""
    assert node.addresses is not None
    entry = node.rpc("eth_getLogs", {"address": node.addresses.channels, "fromBlock": "0x0", "topics": [None, "0x" + channel.hex()]})[-1]
    word = parse_word(channel, int(entry["data"], 16))
    assert word.phase is ChannelPhase.CLOSED
    return word.balance_a, word.balance_b


def machine(party: Party, records: tuple[Any, ...] = (), **options: int) -> Machine:
    deposits = {name: options.pop(name) for name in ("deposit_a", "deposit_b") if name in options}
    return Machine(link=link(**options), party=party, key=KEYS[party], opening=opening(**deposits), records=records)


@dataclasses.dataclass
class Agents:
    """What the two sandboxes attest, per direction."""

    transcripts: list[Transcript] = dataclasses.field(
        default_factory=lambda: [Transcript(task=TASK, link=(ServerIndex(0), ServerIndex(1)), direction=d) for d in (0, 1)]
    )
    receipts: list[Receipt] = dataclasses.field(default_factory=list)

    def transfer(self, direction: int, size: int) -> Receipt:
        """The receiver of a direction (0: a, 1: b) attests a batch."""
        digest = hashlib.sha256(f"{direction} {len(self.receipts)}".encode()).digest()
        self.transcripts[direction], receipt = self.transcripts[direction].append(size, digest, SANDBOXES[direction])
        self.receipts.append(receipt)
        return receipt
