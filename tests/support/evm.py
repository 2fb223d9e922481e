"""Transactions from anvil's own accounts, at a time the test chooses and without fees, and many questions in one request."""

import contextlib
import json
import pathlib
import subprocess
import urllib.request
from collections.abc import Iterator, Sequence
from typing import Any

from tests.support.anvil import Anvil

CONTRACTS = pathlib.Path(__file__).parents[2] / "contracts"
GAS = hex(3_000_000)
MINT = bytes.fromhex("40c10f19")


def ask(node: Anvil, questions: Sequence[tuple[str, list[Any]]]) -> list[Any]:
    """Ask many things at once. Raises RuntimeError for the first that fails."""
    body = [{"jsonrpc": "2.0", "id": i, "method": method, "params": parameters} for i, (method, parameters) in enumerate(questions)]
    request = urllib.request.Request(node.url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        answers = sorted(json.load(answer), key=lambda item: item["id"])
    for item in answers:
        if "error" in item:
            raise RuntimeError(item["error"])
    return [item["result"] for item in answers]


def call(to: str, data: bytes) -> tuple[str, list[Any]]:
    """A question to a contract, for `ask`."""
    return "eth_call", [{"to": to, "data": "0x" + data.hex()}, "latest"]


def goes_through(node: Anvil, transaction: dict[str, Any], overrides: dict[str, Any] | None = None) -> bool:
    """Whether a transaction would go through, on a state that differs from the chain's by `overrides`. Nothing changes."""
    try:
        node.rpc("eth_call", {**transaction, "gas": GAS}, "latest", overrides or {})
    except RuntimeError as error:
        if "revert" not in str(error):
            raise
        return False
    return True


def send(node: Anvil, sender: str, to: str, data: bytes, *, value: int = 0, at: int) -> bool:
    """Mine a transaction in a block of its own with a timestamp (inside `by_hand`); return whether it went through."""
    transaction = {"from": sender, "to": to, "data": "0x" + data.hex(), "value": hex(value), "gas": GAS, "gasPrice": "0x0"}
    before = [("evm_setNextBlockTimestamp", [at]), ("anvil_setNextBlockBaseFeePerGas", ["0x0"])]
    return int(_mine(node, before, transaction)["status"], 16) == 1


def compiled(name: str) -> str:
    """Compile one of the forge tests' mocks; return its creation code in hex."""
    path = f"test/mocks/{name}.sol"
    request = {
        "language": "Solidity",
        "sources": {path: {"content": (CONTRACTS / path).read_text("utf-8")}},
        "settings": {"evmVersion": "cancun", "outputSelection": {path: {name: ["evm.bytecode.object"]}}},
    }
    run = subprocess.run(
        [CONTRACTS / "tools/solc", "--standard-json"], input=json.dumps(request), capture_output=True, text=True, check=True
    )
    return "0x" + str(json.loads(run.stdout)["contracts"][path][name]["evm"]["bytecode"]["object"])


def mock(node: Anvil, sender: str, name: str) -> str:
    """Compile and deploy one of the forge tests' mocks that needs no arguments; return its address."""
    return str(_mine(node, [], {"from": sender, "data": compiled(name), "gas": GAS})["contractAddress"])


def mint(node: Anvil, sender: str, token: str, owner: str, amount: int) -> None:
    """Give somebody tokens of the mock Token."""
    data = MINT + bytes.fromhex(owner[2:]).rjust(32, b"\0") + amount.to_bytes(32, "big")
    transaction = {"from": sender, "to": token, "data": "0x" + data.hex(), "gas": GAS}
    assert int(_mine(node, [], transaction)["status"], 16) == 1


@contextlib.contextmanager
def undone(node: Anvil) -> Iterator[None]:
    """Let a block of code change the chain, and take it all back."""
    before = node.rpc("evm_snapshot")
    try:
        yield
    finally:
        node.rpc("evm_revert", before)


@contextlib.contextmanager
def by_hand(node: Anvil) -> Iterator[None]:
    """Mine only what `send` sends. By itself anvil mines a moment later, and a receipt may not be there yet."""
    node.rpc("evm_setAutomine", False)
    try:
        yield
    finally:
        node.rpc("evm_setAutomine", True)


def _mine(node: Anvil, before: Sequence[tuple[str, list[Any]]], transaction: dict[str, Any]) -> dict[str, Any]:
    sent = ask(node, [*before, ("eth_sendTransaction", [transaction]), ("evm_mine", [])])[len(before)]
    return dict(node.rpc("eth_getTransactionReceipt", sent))
