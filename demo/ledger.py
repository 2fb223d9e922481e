"""What the chain says happened: every transaction and event since a block, and balances that must add up.

Read from the chain, not from anybody's log.
"""

import dataclasses
from typing import Any

from web3 import Web3
from web3.types import BlockData, TxData

from demo.chain import artifacts
from demo.parties import PARTIES
from veilpod.core.channel.state import parse_word
from veilpod.core.ids import ChannelId


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """A window onto the chain from block `first` (exclusive) to block `last` (inclusive)."""

    web3: Web3
    contracts: dict[str, str]  # registry, scheduler, channels -> address
    first: int
    last: int

    @property
    def names(self) -> dict[str, str]:
        """Lower-case address -> who or what it is."""
        parties = {party.address.lower(): party.name for party in PARTIES}
        return parties | {address.lower(): name for name, address in self.contracts.items() if name in _ABI}

    def transactions(self) -> list[dict[str, Any]]:
        """Every transaction in the window: hash, block, time, sender, contract, function, gas, fee."""
        found = []
        for number in range(self.first + 1, self.last + 1):
            block = self.web3.eth.get_block(number, full_transactions=True)
            found += [self._transaction(block, transaction) for transaction in block["transactions"] if not isinstance(transaction, bytes)]
        return found

    def _transaction(self, block: BlockData, transaction: TxData) -> dict[str, Any]:
        receipt = self.web3.eth.get_transaction_receipt(transaction["hash"])
        target = str(transaction.get("to") or "").lower()
        return {
            "hash": transaction["hash"].to_0x_hex(),
            "block": block["number"],
            "time": block["timestamp"],
            "sender": self.names.get(str(transaction["from"]).lower(), str(transaction["from"])),
            "to": self.names.get(target, target),
            "function": self._selectors().get(bytes(transaction["input"][:4]), "transfer"),
            "gas": receipt["gasUsed"],
            "fee": str(receipt["gasUsed"] * receipt["effectiveGasPrice"]),
            "value": str(transaction["value"]),
            "ok": receipt["status"] == 1,
        }

    def _selectors(self) -> dict[bytes, str]:
        found = {}
        for abi in artifacts().values():
            for item in abi:
                if item["type"] == "function":
                    signature = f"{item['name']}({','.join(_type(i) for i in item['inputs'])})"
                    found[bytes(Web3.keccak(text=signature)[:4])] = item["name"]
        return found

    def events(self, contract: str) -> list[dict[str, Any]]:
        """Every event of a contract in the window, decoded: name, args, block, time, its transaction, and the channel it left."""
        bound = self.web3.eth.contract(address=Web3.to_checksum_address(self.contracts[contract]), abi=artifacts()[_ABI[contract]])
        logs = self.web3.eth.get_logs({"address": bound.address, "fromBlock": self.first + 1, "toBlock": self.last})
        names = {
            bytes(Web3.keccak(text=f"{item['name']}({','.join(_type(part) for part in item['inputs'])})")): item["name"]
            for item in artifacts()[_ABI[contract]]
            if item["type"] == "event"
        }
        found = []
        for log in logs:
            event = bound.events[names[bytes(log["topics"][0])]]().process_log(log)
            time = self.web3.eth.get_block(event["blockNumber"])["timestamp"]
            origin = {"contract": contract, "transaction": event["transactionHash"]}
            args = dict(event["args"])
            channel = {"channel": parse_word(ChannelId(args["channelId"]), args["word"])} if "word" in args else {}
            found.append({"name": event["event"], "args": args, "block": event["blockNumber"], "time": time} | origin | channel)
        return found

    def arguments(self, event: dict[str, Any]) -> dict[str, Any]:
        """Decode the call that an event came from."""
        contract = event["contract"]
        bound = self.web3.eth.contract(address=Web3.to_checksum_address(self.contracts[contract]), abi=artifacts()[_ABI[contract]])
        _, arguments = bound.decode_function_input(self.web3.eth.get_transaction(event["transaction"])["input"])
        return dict(arguments)

    def owner_of(self, node: int) -> str:
        """Who registered a node."""
        registry = self.web3.eth.contract(address=Web3.to_checksum_address(self.contracts["registry"]), abi=artifacts()["NodeRegistry"])
        owner = str(registry.functions.ownerOf(node).call())
        return self.names.get(owner.lower(), owner)

    def balances(self) -> dict[str, Any]:
        """Balances of everybody before and after, and the equation that adds up: before = after + fees (which leave circulation)."""
        accounts = dict(self.names)
        stranger = {str(t["sender"]).lower() for t in self.transactions() if str(t["sender"]).startswith("0x")}
        accounts |= {address: address for address in stranger}

        def at(block: int) -> dict[str, int]:
            return {name: self.web3.eth.get_balance(Web3.to_checksum_address(address), block) for address, name in accounts.items()}

        before, after = at(self.first), at(self.last)
        fees = sum(int(t["fee"]) for t in self.transactions())
        return {
            "before": {name: str(wei) for name, wei in before.items()},
            "after": {name: str(wei) for name, wei in after.items()},
            "change": {name: str(after[name] - before[name]) for name in before},
            "fees": str(fees),
            "equation": {
                "text": "sum(before) = sum(after) + fees",
                "before": str(sum(before.values())),
                "after": str(sum(after.values())),
                "fees": str(fees),
                "holds": sum(before.values()) == sum(after.values()) + fees,
            },
        }


def _type(item: dict[str, Any]) -> str:
    """Spell an ABI type for a signature; tuples by their parts."""
    kind: str = item["type"]
    if not kind.startswith("tuple"):
        return kind
    return f"({','.join(_type(part) for part in item['components'])}){kind.removeprefix('tuple')}"


_ABI = {"registry": "NodeRegistry", "scheduler": "TaskScheduler", "channels": "ChannelManager"}
