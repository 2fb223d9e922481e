"""Two tasks between the same servers, one after the other: the second opens the first one's channels again."""

import pathlib
from typing import Any

import pytest
from demo import chain
from demo.parties import SERVERS
from demo.stage import Stage
from web3 import Web3
from web3.exceptions import ContractCustomError

from tests.support import cheating, playing
from veilpod.chain.contracts import contract, error_name
from veilpod.core.channel.records import Signed
from veilpod.core.channel.state import pack_terms
from veilpod.core.guard import Place
from veilpod.core.ids import Address

pytestmark = pytest.mark.e2e

CHEAPER = 65_000  # gas of both transactions that open a channel; the first time they cost 75,848 (make bench-contracts)


def opening_gas(stage: Stage, web3: Any, first: int) -> dict[tuple[str, int], int]:
    ledger = playing.ledger(stage, web3, first)
    gas = {transaction["hash"]: transaction["gas"] for transaction in ledger.transactions()}
    found: dict[tuple[str, int], int] = {}
    for event in ledger.events("channels"):
        if event["name"] in ("Opening", "Opened"):
            key = "0x" + event["args"]["channelId"].hex(), event["channel"].epoch
            found[key] = found.get(key, 0) + gas[event["transaction"].to_0x_hex()]
    return found


def refusal(stage: Stage, web3: Web3, sender: Address, place: Place, old: Signed) -> str:
    """What the contract says to a party that challenges with a state."""
    packed = (place.a, place.b, pack_terms(place.terms))
    state = (old.state.version, old.state.balance_a, old.state.balance_b, old.state.data_hash)
    peers = old.signature_b if place.a == sender else old.signature_a
    call = contract("ChannelManager").functions["challenge"].encode(packed, state, peers)
    target = Web3.to_checksum_address(stage.contracts["channels"])
    try:
        web3.eth.call({"from": Web3.to_checksum_address(sender), "to": target, "data": Web3.to_hex(call)})
    except ContractCustomError as error:
        return error_name(bytes.fromhex(str(error.data).removeprefix("0x"))) or ""
    return ""


def test_a_second_task_opens_the_channels_again_for_less_and_no_state_of_the_first_counts(stage: Stage, tmp_path: pathlib.Path) -> None:
    with chain.reachable(stage.cluster) as web3:
        first = web3.eth.block_number
        playing.start(stage, "once")
        playing.reached(stage, "once", "Settled")
        before = playing.sessions(stage, "once")
        playing.start(stage, "again", roles=playing.ENDLESS)
        try:
            playing.reached(stage, "again", "InputsVerified")
            shared = {channel: found for channel, found in playing.sessions(stage, "again").items() if channel in before}
            assert shared, "two stars between three servers share a pair"
            gas = opening_gas(stage, web3, first)
            for channel, (session, a) in shared.items():
                assert session == before[channel][0] + 1
                assert gas[channel, session] < CHEAPER
                server = next(server for server in SERVERS if server.address == a)
                states = cheating.signed_by(stage, server, channel, tmp_path / channel)
                old = max((signed for signed in states if signed.state.epoch == session - 1), key=lambda signed: signed.state.version)
                place = cheating.place_of(stage, server, channel)
                assert refusal(stage, web3, Address(a), place, old) == f"UseEpoch({session})"
        finally:
            playing.forget(stage, "again")
        assert playing.ledger(stage, web3, first).balances()["equation"]["holds"]
