"""What an operator hands to a watchtower, and the receipt it gets for it (docs/protocol/watchtower.md). Paper step 11.

Both sides of the wire in one place: a co-signed state with everything that is needed to answer with it on chain, and the tower's
signed word that it holds one. Values and their checks only; who holds and answers is `veilpod.watchtower`.
"""

import dataclasses
import functools
from typing import Any

from veilpod.core.canonical import to_hex
from veilpod.core.channel.records import Signed
from veilpod.core.channel.state import ChannelState, channel_id, parse_state
from veilpod.core.entities import ChannelTerms
from veilpod.core.fields import Fields, address_bytes
from veilpod.core.ids import Address, ChannelId
from veilpod.core.keys import SIGNATURE_BYTES, SigningKey, recover
from veilpod.core.typed_data import Domain, guard_digest
from veilpod.errors import InvalidInput, ProtocolViolation

REQUEST_LIMIT = 8192  # bytes of a request or an answer
GUARD_PATH = "/v1/guard"


_channel = functools.lru_cache(maxsize=4096)(channel_id)  # asked for with every update


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Which channel: what its id commits to."""

    a: Address
    b: Address
    terms: ChannelTerms

    @property
    def channel(self) -> ChannelId:
        """The channel's id."""
        return _channel(self.a, self.b, self.terms)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Guarded:
    """A state with both parties' signatures, and the channel it is of: all that `respond` takes, and nothing that signs."""

    place: Place
    state: ChannelState
    signature_a: bytes
    signature_b: bytes

    def state_hash(self, domain: Domain) -> bytes:
        """The digest that both parties signed: it binds chain, contract, channel, version, balances and transcript. 32 bytes."""
        return self.state.digest(domain, self.place.channel)

    def check(self, domain: Domain) -> None:
        """Check both signatures by their plain keys. Raises ProtocolViolation("BadSignature")."""
        digest = self.state_hash(domain)
        for party, signature in ((self.place.a, self.signature_a), (self.place.b, self.signature_b)):
            if recover(digest, signature) != party:
                raise ProtocolViolation("BadSignature", "a state that not both of its channel's parties have signed", party="client")

    def signed(self) -> Signed:
        """The same as the dispute rules take it."""
        return Signed(state=self.state, final=False, signature_a=self.signature_a, signature_b=self.signature_b)

    def document(self) -> dict[str, Any]:
        """The JSON form, on the wire and on a tower's disk."""
        place, terms = self.place, self.place.terms
        return {
            "a": to_hex(address_bytes(place.a)),
            "b": to_hex(address_bytes(place.b)),
            "terms": {
                "asset": to_hex(address_bytes(terms.asset)),
                "lane": terms.lane,
                "challengePeriod": terms.challenge_period,
                "penaltyBps": terms.penalty_bps,
            },
            "state": self.state.to_json(),
            "signatureA": to_hex(self.signature_a),
            "signatureB": to_hex(self.signature_b),
        }


def take_guarded(fields: Fields) -> Guarded:
    """Read a co-signed state from an object that may hold more. Raises ProtocolViolation; checks no signature."""
    terms = fields.fields("terms")
    place = Place(
        a=fields.address("a"),
        b=fields.address("b"),
        terms=ChannelTerms(
            asset=terms.address("asset"),
            lane=terms.integer("lane", maximum=(1 << 48) - 1),
            challenge_period=terms.integer("challengePeriod", maximum=(1 << 32) - 1),
            penalty_bps=terms.integer("penaltyBps", maximum=10_000),
        ),
    )
    terms.done()
    try:
        _ = place.channel
    except InvalidInput as error:
        raise ProtocolViolation("BadMessage", "a channel's parties are in ascending order", party="client") from error
    return Guarded(
        place=place,
        state=parse_state(fields.take("state")),
        signature_a=fields.data("signatureA", SIGNATURE_BYTES),
        signature_b=fields.data("signatureB", SIGNATURE_BYTES),
    )


def request_document(domain: Domain, guarded: Guarded) -> dict[str, Any]:
    """Spell the request to guard a state."""
    return {"chainId": domain.chain_id, "contract": to_hex(address_bytes(domain.contract)), **guarded.document()}


def parse_request(domain: Domain, value: Any) -> Guarded:
    """Read a request. Raises ProtocolViolation: BadMessage, or WrongChain or WrongContract for a state of somewhere else."""
    fields = Fields(value, what="request", party="client")
    chain_id, contract = fields.integer("chainId"), fields.address("contract")
    guarded = take_guarded(fields)
    fields.done()
    if chain_id != domain.chain_id:
        raise ProtocolViolation("WrongChain", f"this tower watches chain {domain.chain_id}, not {chain_id}", party="client")
    if contract != domain.contract:
        raise ProtocolViolation("WrongContract", f"this tower watches {domain.contract}", party="client")
    return guarded


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GuardReceipt:
    """A tower's word: it holds this version of this channel and answers with it, until a time (unix seconds)."""

    channel: ChannelId
    version: int
    state_hash: bytes
    until: int
    signature: bytes

    def check(self, domain: Domain, tower: Address) -> None:
        """Check who signed it. Raises ProtocolViolation("BadReceipt")."""
        digest = guard_digest(domain, self.channel, version=self.version, state_hash=self.state_hash, until=self.until)
        try:
            signer = recover(digest, self.signature)
        except ProtocolViolation as error:
            raise ProtocolViolation("BadReceipt", "a receipt with a broken signature", party="tower") from error
        if signer != tower:
            raise ProtocolViolation("BadReceipt", f"a receipt signed by {signer}: the tower's address is {tower}", party="tower")

    def document(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "channelId": to_hex(self.channel),
            "version": self.version,
            "stateHash": to_hex(self.state_hash),
            "until": self.until,
            "signature": to_hex(self.signature),
        }


def make_receipt(key: SigningKey, domain: Domain, guarded: Guarded, *, until: int) -> GuardReceipt:
    """Sign for a state that is on the disk."""
    channel, version, state_hash = guarded.place.channel, guarded.state.version, guarded.state_hash(domain)
    signature = key.sign(guard_digest(domain, channel, version=version, state_hash=state_hash, until=until))
    return GuardReceipt(channel=channel, version=version, state_hash=state_hash, until=until, signature=signature)


def parse_receipt(value: Any) -> GuardReceipt:
    """Read a receipt. Raises ProtocolViolation; checks no signature."""
    fields = Fields(value, what="receipt", party="tower")
    receipt = GuardReceipt(
        channel=ChannelId(fields.data("channelId", 32)),
        version=fields.integer("version", maximum=(1 << 56) - 1),
        state_hash=fields.data("stateHash", 32),
        until=fields.integer("until"),
        signature=fields.data("signature", SIGNATURE_BYTES),
    )
    fields.done()
    return receipt
