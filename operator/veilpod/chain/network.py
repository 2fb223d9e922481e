"""Is this the chain we mean? Checked at the start and after every lost connection, before anything else is believed.

Four questions: the chain's id; our contracts' code at their addresses; the deployment's block; and, once connected, a remembered
block, so that a chain which was emptied and started again behind the same URL and id is noticed instead of read as "there is no
task, no channel, no money".
"""

import json
import pathlib
from typing import Any

from veilpod.chain import contracts
from veilpod.chain.files import write_atomically
from veilpod.chain.heads import Header, header
from veilpod.chain.rpc import Rpc
from veilpod.errors import ChainUnavailable, InvalidInput

ANCHOR_DEPTH = 128  # blocks; no chain we know reorganises that deep
_REMEDY = "If the chain was replaced on purpose, stop the operator and move its state directory away: it describes money on the old one."


class NetworkCheck:
    """The check that `rpc` runs before it believes a node."""

    def __init__(self, *, chain_id: int, addresses: contracts.Addresses, state_dir: pathlib.Path) -> None:
        self._chain_id = chain_id
        self._addresses = addresses
        self._file = state_dir / "chain.json"

    async def __call__(self, rpc: Rpc) -> None:
        """Raises InvalidInput with reason WrongChain, ContractMissing or ChainReplaced; ChainUnavailable when the node does not say."""
        answer = await rpc.quantity("eth_chainId")
        if answer != self._chain_id:
            raise InvalidInput("WrongChain", f"the RPC serves chain {answer}, this release is configured for chain {self._chain_id}")

        # The remembered block first: a replaced chain usually lacks the contracts too, and says less about why.
        latest = await header(rpc, "latest")
        if latest is None:
            raise ChainUnavailable("the node has no newest block")
        known = self._load()
        await self._check_block(rpc, latest, 0, known.get("genesis", ""))
        await self._check_block(rpc, latest, self._addresses.since, self._addresses.since_hash)
        await self._check_block(rpc, latest, known.get("anchor", 0), known.get("anchorHash", ""))

        for name in contracts.NAMES:
            if len(await rpc.ask("eth_getCode", self._addresses.of(name), "latest")) <= 2:
                raise InvalidInput("ContractMissing", f"there is no {name} at {self._addresses.of(name)} on chain {self._chain_id}")
        await self._remember(rpc, latest, known)

    async def _check_block(self, rpc: Rpc, latest: Header, number: int, expected: str) -> None:
        if not expected:
            return
        if number > latest.number:
            # A node that is still catching up looks the same as a younger chain, so it may only wait while it is the same chain below.
            syncing = await rpc.ask("eth_syncing")
            if syncing:
                raise ChainUnavailable("the node is still catching up")
        found = await header(rpc, number)
        if found is None or found.hash != expected:
            raise InvalidInput(
                "ChainReplaced", f"block {number} is not the block it was: this is another chain with the same id. {_REMEDY}"
            )

    async def _remember(self, rpc: Rpc, latest: Header, known: dict[str, Any]) -> None:
        anchor = max(0, latest.number - ANCHOR_DEPTH)
        if known and anchor <= known["anchor"] + ANCHOR_DEPTH:
            return
        genesis, block = await header(rpc, 0), await header(rpc, anchor)
        if genesis is None or block is None:
            raise ChainUnavailable("the node does not have its own blocks")
        write_atomically(self._file, json.dumps({"genesis": genesis.hash, "anchor": anchor, "anchorHash": block.hash}).encode())

    def _load(self) -> dict[str, Any]:
        try:
            document = json.loads(self._file.read_bytes())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise InvalidInput("StateUnreadable", f"{self._file.name} in the state directory cannot be read") from error
        if not isinstance(document, dict) or not {"genesis", "anchor", "anchorHash"} <= set(document):
            raise InvalidInput("StateUnreadable", f"{self._file.name} in the state directory is not ours")
        return document
