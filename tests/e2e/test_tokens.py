"""A task whose budget is in an ERC-20 token, on a real cluster."""

from collections.abc import Iterator
from typing import Any

import pytest
from demo import chain
from demo.parties import REQUESTER, SERVERS
from demo.stage import Stage
from web3 import Web3

from tests.support import evm, playing

pytestmark = pytest.mark.e2e

UNIT = 10**6  # the token has six digits after the point
RICH = 100 * UNIT
ABI: list[Any] = [
    {"type": "function", "name": name, "inputs": [{"name": n, "type": t} for n, t in inputs], "outputs": outputs, "stateMutability": "view"}
    for name, inputs, outputs in (
        ("balanceOf", [("owner", "address")], [{"name": "", "type": "uint256"}]),
        ("mint", [("to", "address"), ("amount", "uint256")], []),
    )
]


@pytest.fixture
def token(stage: Stage) -> Iterator[Any]:
    """A token that the servers accept, and of which everybody has some."""
    with chain.reachable(stage.cluster) as web3:
        payer = web3.eth.accounts[0]
        sent = web3.eth.send_transaction({"from": payer, "data": Web3.to_hex(hexstr=evm.compiled("Token"))})
        address = web3.eth.wait_for_transaction_receipt(sent, timeout=30)["contractAddress"]
        made = web3.eth.contract(address=address, abi=ABI)
        for party in (REQUESTER, *SERVERS):
            made.functions.mint(Web3.to_checksum_address(party.address), RICH).transact({"from": payer})
        playing.reconfigure(stage, assets=[address])
        try:
            yield made
        finally:
            playing.reconfigure(stage, assets=[])


def test_budget_pay_and_channels_are_in_the_token(stage: Stage, token: Any) -> None:
    payment = {"budget": "5", "perServer": "1.5", "perTransferMiB": "0.1", "channelDeposit": "2", "asset": token.address, "decimals": 6}
    playing.start(stage, "tokens", payment=payment)
    playing.reached(stage, "tokens", "Settled")

    def holding(address: str) -> int:
        return int(token.functions.balanceOf(Web3.to_checksum_address(address)).call())

    assert holding(REQUESTER.address) == RICH - 3 * 15 * UNIT // 10
    assert sum(holding(server.address) for server in SERVERS) == 3 * RICH + 3 * 15 * UNIT // 10
    assert [holding(stage.contracts[name]) for name in ("scheduler", "channels")] == [0, 0]
    playing.forget(stage, "tokens")
