"""An EVM node of its own for measuring: real transactions of its rich accounts, and the receipts they leave."""

import contextlib
import dataclasses
import json
import subprocess
from collections.abc import Iterator, Sequence
from typing import Any

import eth_abi.abi
from tests.support import anvil

from bench.report import ROOT
from veilpod.chain import contracts
from veilpod.core.ids import Address
from veilpod.core.keys import SigningKey, checksum_address
from veilpod.core.typed_data import Domain

ETHER = 10**18
TOKEN = "test/mocks/LeanToken.sol"


@dataclasses.dataclass(frozen=True, slots=True)
class Measured:
    """A deployed contract whose every call is a transaction. `call` returns the receipt's gasUsed."""

    node: anvil.Anvil
    name: str
    address: Address

    @property
    def domain(self) -> Domain:
        """Its EIP-712 domain."""
        return Domain(chain_id=anvil.CHAIN_ID, contract=self.address)

    def now(self) -> int:
        """The newest block's time, unix seconds."""
        return int(self.node.rpc("eth_getBlockByNumber", "latest", False)["timestamp"], 16)

    def call(self, sender: SigningKey, function: str, *arguments: Any, value: int = 0) -> int:
        """Send one transaction and return what it used."""
        data = contracts.contract(self.name).functions[function].encode(*arguments)
        return int(send(self.node, sender, to=self.address, data=data, value=value)["gasUsed"], 16)


def send(node: anvil.Anvil, sender: SigningKey, *, data: bytes, to: str | None = None, value: int = 0) -> dict[str, Any]:
    """Send a transaction of one of the node's own accounts; the receipt. A revert is an error of the bench."""
    fields = {"from": sender.address, "data": "0x" + data.hex(), "value": hex(value), "gas": hex(10_000_000)}
    transaction = node.rpc("eth_sendTransaction", fields | ({} if to is None else {"to": to}))
    node.mine()
    receipt: dict[str, Any] = node.rpc("eth_getTransactionReceipt", transaction)
    if int(receipt["status"], 16) != 1:
        call = node.rpc("debug_traceTransaction", transaction, {"tracer": "callTracer"})
        raise RuntimeError(f"reverted with {contracts.error_name(bytes.fromhex(call.get('output', '0x')[2:]))}")
    return receipt


def deploy(node: anvil.Anvil, name: str, *arguments: Any) -> tuple[Measured, int]:
    """Deploy a contract as it is shipped, and what that used."""
    target = contracts.contract(name)
    receipt = send(node, anvil.account(9), data=target.bytecode + eth_abi.abi.encode(target.constructor, arguments))
    return Measured(node, name, checksum_address(bytes.fromhex(receipt["contractAddress"][2:]))), int(receipt["gasUsed"], 16)


def deploy_token(node: anvil.Anvil, holders: Sequence[SigningKey], *, spender: Address) -> Address:
    """Deploy a token as lean as tokens are; the holders have some of it and allow the spender everything."""
    receipt = send(node, anvil.account(9), data=_lean_token())
    token = checksum_address(bytes.fromhex(receipt["contractAddress"][2:]))
    for holder in holders:
        send(
            node,
            holder,
            to=token,
            data=bytes.fromhex("40c10f19") + eth_abi.abi.encode(["address", "uint256"], [holder.address, 100 * ETHER]),
        )
        send(node, holder, to=token, data=bytes.fromhex("095ea7b3") + eth_abi.abi.encode(["address", "uint256"], [spender, 2**256 - 1]))
    return token


def _lean_token() -> bytes:
    """Compile the token: it is no part of what the package ships."""
    home = ROOT / "contracts"
    subprocess.run([home / "node_modules/.bin/forge", "build", "--quiet", TOKEN], cwd=home, check=True)
    built = json.loads((home / "out/default/LeanToken.sol/LeanToken.json").read_text("utf-8"))
    return bytes.fromhex(built["bytecode"]["object"].removeprefix("0x"))


@contextlib.contextmanager
def running() -> Iterator[anvil.Anvil]:
    """A fresh node for a block of code."""
    if not anvil.BINARY.exists():
        raise SystemExit("anvil is not installed: npm ci --prefix contracts")
    # A fixed time, without zero bytes: what calldata costs must not depend on the day.
    with anvil.running("--no-mining", "--timestamp", str(0x6B6B6B6B)) as node:
        yield node
