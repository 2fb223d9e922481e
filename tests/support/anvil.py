"""A real EVM node with the real contracts, for tests: anvil on a free loopback port, one process each, ended with its fixture.

Blocks are mined at once for each transaction unless the arguments say otherwise. Accounts are anvil's well-known ones: rich here,
worthless elsewhere.
"""

import asyncio
import contextlib
import dataclasses
import json
import os
import pathlib
import signal
import socket
import subprocess
import urllib.request
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from veilpod.chain import Addresses, Chain
from veilpod.chain.deploy import deploy
from veilpod.core.keys import SigningKey, signing_key

BINARY = pathlib.Path(__file__).parents[2] / "contracts/node_modules/@foundry-rs/anvil-linux-amd64/bin/anvil"
CHAIN_ID = 31337
MNEMONIC = "test test test test test test test test test test test junk"


def account(index: int) -> SigningKey:
    """One of anvil's rich accounts, 0 to 9."""
    from eth_account import Account

    Account.enable_unaudited_hdwallet_features()
    return signing_key(bytes(Account.from_mnemonic(MNEMONIC, account_path=f"m/44'/60'/0'/0/{index}").key).hex())


@dataclasses.dataclass
class Anvil:
    """A running node. `addresses` after `deploy_contracts`."""

    port: int
    process: "subprocess.Popen[bytes]"
    addresses: Addresses | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def ws_url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    def rpc(self, method: str, *params: Any) -> Any:
        """Call the node directly: what the world does behind the adapter's back."""
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
        request = urllib.request.Request(self.url, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=10) as answer:
            document = json.load(answer)
        if "error" in document:
            raise RuntimeError(document["error"])
        return document["result"]

    def mine(self, blocks: int = 1) -> None:
        self.rpc("anvil_mine", hex(blocks))

    def advance(self, seconds: int) -> None:
        """Let chain time pass."""
        self.rpc("evm_increaseTime", seconds)
        self.mine()

    async def deploy_contracts(self) -> Addresses:
        self.addresses = await deploy(self.url, account(9), account(9).address)
        return self.addresses

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """A node that hangs while the body runs: connections open, nothing answers."""
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED)  # the signal is sent, not yet obeyed: threads still answer for a moment
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


def start(*arguments: str, port: int | None = None) -> Anvil:
    """Start a node and wait until it answers."""
    port = port or _free_port()
    command = [str(BINARY), "--port", str(port), "--host", "127.0.0.1", "--quiet", "--chain-id", str(CHAIN_ID), *arguments]
    if not BINARY.exists():
        raise RuntimeError("anvil is not installed: npm ci --prefix contracts")
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    node = Anvil(port=port, process=process)
    for _ in range(200):
        with contextlib.suppress(OSError):
            node.rpc("eth_chainId")
            return node
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.05)
            raise RuntimeError(f"anvil ended with {process.returncode}")
    node.stop()
    raise RuntimeError("anvil does not answer")


@contextlib.contextmanager
def running(*arguments: str) -> Iterator[Anvil]:
    """A node for a block of code."""
    node = start(*arguments)
    try:
        yield node
    finally:
        node.stop()


@pytest.fixture
async def anvil() -> AsyncIterator[Anvil]:
    """A node with the contracts deployed, one block per transaction."""
    with running() as node:
        await node.deploy_contracts()
        yield node


async def eventually(condition: Any, timeout: float = 60.0) -> Any:
    """Wait until a condition (plain or awaitable) is true, and return it."""
    async with asyncio.timeout(timeout):
        while True:
            value = condition()
            if asyncio.iscoroutine(value):
                value = await value
            if value:
                return value
            await asyncio.sleep(0.02)


async def caught_up(chain: Chain, node: Anvil) -> None:
    """Wait until a connection has seen the node's newest block: what another connection did is then visible here."""
    await eventually(lambda: chain.head_block >= int(node.rpc("eth_blockNumber"), 16))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
