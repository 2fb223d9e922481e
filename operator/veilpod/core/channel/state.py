"""A channel's state as both parties sign it and ChannelManager judges it.

Values and their spelling only: what may follow what is in `rules`, who signs when in `machine`. Paper steps 3, 7 and 11.
"""

import dataclasses
from typing import Any

from veilpod.core import typed_data
from veilpod.core.canonical import from_hex, keccak256, to_hex
from veilpod.core.entities import SEQUENCE_BITS, ChainChannel, ChannelPhase, ChannelTerms, channel_version
from veilpod.core.ids import Address, ChannelId
from veilpod.errors import InvalidInput, ProtocolViolation

NO_DATA = bytes(32)
_MAX_BALANCE = (1 << 80) - 1


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ChannelState:
    """Who owns what after which transcript. `version` = epoch:16 | sequence:40; balances in wei; `data_hash` is the transcript's head."""

    version: int
    balance_a: int
    balance_b: int
    data_hash: bytes

    @property
    def epoch(self) -> int:
        """The session of the channel: each opening makes a new one."""
        return self.version >> SEQUENCE_BITS

    @property
    def sequence(self) -> int:
        """The update within the session; 0 is the deposits, which nobody signs."""
        return self.version & ((1 << SEQUENCE_BITS) - 1)

    @property
    def total(self) -> int:
        """What both own together: the deposits, for ever."""
        return self.balance_a + self.balance_b

    def digest(self, domain: typed_data.Domain, channel: ChannelId) -> bytes:
        """The digest that a signature on this state covers."""
        return typed_data.state_digest(
            domain, channel, version=self.version, balance_a=self.balance_a, balance_b=self.balance_b, data_hash=self.data_hash
        )

    def close_digest(self, domain: typed_data.Domain, channel: ChannelId) -> bytes:
        """The digest that a signature for closing at once with this state covers."""
        return typed_data.close_digest(
            domain, channel, version=self.version, balance_a=self.balance_a, balance_b=self.balance_b, data_hash=self.data_hash
        )

    def to_json(self) -> dict[str, Any]:
        """Spell the state as in a proposal."""
        return {
            "version": self.version,
            "balanceA": str(self.balance_a),
            "balanceB": str(self.balance_b),
            "dataHash": to_hex(self.data_hash),
        }


def opening_state(*, epoch: int, deposit_a: int, deposit_b: int) -> ChannelState:
    """The state at sequence 0: the deposits of a session."""
    return ChannelState(version=channel_version(epoch, 0), balance_a=deposit_a, balance_b=deposit_b, data_hash=NO_DATA)


def parse_state(value: Any) -> ChannelState:
    """Read a state from a message. Raises ProtocolViolation("BadState")."""
    try:
        if set(value) != {"version", "balanceA", "balanceB", "dataHash"} or type(value["version"]) is not int:
            raise ValueError("fields")
        state = ChannelState(
            version=value["version"],
            balance_a=_wei(value["balanceA"]),
            balance_b=_wei(value["balanceB"]),
            data_hash=from_hex(value["dataHash"], 32),
        )
        if not 0 <= state.version < 1 << 56:
            raise ValueError("version")
    except (TypeError, ValueError, ProtocolViolation) as error:
        raise ProtocolViolation("BadState", f"not a channel state: {error}") from error
    return state


def pack_terms(terms: ChannelTerms) -> int:
    """Pack a channel's terms: asset:160 | lane:48 | challengePeriod:32 | penaltyBps:16."""
    if not (0 <= terms.lane < 1 << 48 and 0 <= terms.challenge_period < 1 << 32 and 0 <= terms.penalty_bps < 1 << 16):
        raise InvalidInput("BadChannelTerms", "lane, challenge period and penalty must fit 48, 32 and 16 bits")
    return int(terms.asset, 16) << 96 | terms.lane << 48 | terms.challenge_period << 16 | terms.penalty_bps


def channel_id(a: Address, b: Address, terms: ChannelTerms) -> ChannelId:
    """keccak256(abi.encode(a, b, terms)); `a` is the numerically lower account."""
    if not int(a, 16) < int(b, 16):
        raise InvalidInput("BadChannelParties", "the lower account is a, the higher is b")
    return ChannelId(keccak256(b"".join(value.to_bytes(32, "big") for value in (int(a, 16), int(b, 16), pack_terms(terms)))))


def parse_word(channel: ChannelId, word: int) -> ChainChannel:
    """Unpack a channel's word, as its events carry it: phase:8 | epoch:16 | sequence:40 | deadline:32 | balanceA:80 | balanceB:80.

    In the word of Closed the balances are what was paid.
    """
    return ChainChannel(
        id=channel,
        phase=ChannelPhase(word >> 248 & 7),  # the high bits remember who acted and whether a fine is due
        epoch=word >> 232 & 0xFFFF,
        sequence=word >> 192 & (1 << SEQUENCE_BITS) - 1,
        deadline=word >> 160 & 0xFFFFFFFF,
        balance_a=word >> 80 & _MAX_BALANCE,
        balance_b=word & _MAX_BALANCE,
    )


def order(first: Address, second: Address) -> tuple[Address, Address]:
    """Name two accounts a and b."""
    return (first, second) if int(first, 16) < int(second, 16) else (second, first)


def _wei(text: Any) -> int:
    if not isinstance(text, str) or not text.isascii() or not text.isdecimal() or (len(text) > 1 and text[0] == "0"):
        raise ValueError("money is a decimal string of wei")
    if len(text) > 25 or int(text) > _MAX_BALANCE:
        raise ValueError("a balance has 80 bits")
    return int(text)
