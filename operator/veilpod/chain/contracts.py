"""The three contracts as typed calls and events, from the artifacts that ship with the package.

A thin codec: signatures are parsed once from the ABI, encoding and decoding is `abi`'s, and nothing here
talks to a node. web3's own contract objects are not used: they cost milliseconds a call and are built anew for each.
"""

import dataclasses
import functools
import importlib.resources
import json
from collections.abc import Mapping, Sequence
from typing import Any

from veilpod.chain import abi
from veilpod.core.canonical import keccak256
from veilpod.core.ids import Address
from veilpod.core.keys import checksum_address
from veilpod.errors import ChainUnavailable, InvalidInput

NAMES = ("NodeRegistry", "TaskScheduler", "ChannelManager")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Addresses:
    """A deployment. `since` is the block it was made in (0: unknown), `since_hash` that block's hash ("": unknown)."""

    registry: Address
    scheduler: Address
    channels: Address
    since: int = 0
    since_hash: str = ""

    def of(self, contract: str) -> Address:
        """The address of a contract by its name."""
        return {"NodeRegistry": self.registry, "TaskScheduler": self.scheduler, "ChannelManager": self.channels}[contract]

    def to_json(self) -> dict[str, Any]:
        """Spell a deployment for a file."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Addresses":
        """Read what `to_json` wrote. Unknown keys are ignored, so that a file may say more."""
        names = {field.name for field in dataclasses.fields(cls)}
        try:
            return cls(**{name: item for name, item in value.items() if name in names})
        except TypeError as error:
            raise InvalidInput("InvalidDeployment", f"the deployment lacks an address: {error}") from error


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """A function of a contract. Strings in answers are bytes: whoever registers a broken spelling must not stop everybody's decoding."""

    name: str
    selector: bytes
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def encode(self, *args: Any) -> bytes:
        """Encode a call."""
        return self.selector + abi.encode(self.inputs, args)

    def decode(self, answer: bytes) -> tuple[Any, ...]:
        """Decode an answer. Raises ChainUnavailable: an answer that cannot be read cannot be believed."""
        try:
            return abi.decode(self.outputs, answer)
        except abi.Undecodable as error:
            raise ChainUnavailable(f"the node's answer to {self.name} cannot be decoded") from error


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """An event of a contract."""

    contract: str
    name: str
    topic: str
    indexed: tuple[tuple[str, str], ...]  # (name, type), in order; all of ours are static types
    plain: tuple[tuple[str, str], ...]

    def decode(self, topics: Sequence[str], data: bytes) -> dict[str, Any]:
        """Decode a log's topics (with the event's own) and data by argument name."""
        try:
            values = {
                name: abi.decode([kind], bytes.fromhex(topic[2:]))[0] for (name, kind), topic in zip(self.indexed, topics[1:], strict=True)
            }
            values |= zip((name for name, _ in self.plain), abi.decode([kind for _, kind in self.plain], data), strict=True)
        except (abi.Undecodable, ValueError) as error:
            raise ChainUnavailable(f"an event {self.name} cannot be decoded") from error
        return values


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Contract:
    """A contract's ABI, and its code as it is deployed."""

    name: str
    functions: Mapping[str, Function]
    events: Mapping[str, Event]
    constructor: tuple[str, ...]
    bytecode: bytes


@functools.cache
def contract(name: str) -> Contract:
    """Load a contract of the package by name."""
    resource = importlib.resources.files("veilpod.chain").joinpath("artifacts", f"{name}.json")
    artifact = json.loads(resource.read_text())
    entries = artifact["abi"]
    functions = {entry["name"]: _function(entry) for entry in entries if entry["type"] == "function"}
    events = {entry["name"]: _event(name, entry) for entry in entries if entry["type"] == "event"}
    constructor = next((_types(entry["inputs"]) for entry in entries if entry["type"] == "constructor"), ())
    bytecode = bytes.fromhex(artifact["bytecode"].removeprefix("0x"))
    return Contract(name=name, functions=functions, events=events, constructor=constructor, bytecode=bytecode)


@functools.cache
def events_by_topic() -> Mapping[tuple[str, str], Event]:
    """Every event of the three contracts by (contract name, topic)."""
    return {(name, event.topic): event for name in NAMES for event in contract(name).events.values()}


def error_name(data: bytes) -> str | None:
    """Name the custom error that a contract reverted with: `UseEpoch(3)`; None for data that is no error of ours."""
    known = _errors().get(data[:4])
    if known is None:
        return None
    name, types = known
    try:
        values = abi.decode(types, data[4:])
    except abi.Undecodable:
        return name
    return f"{name}({', '.join(_spell(kind, value) for kind, value in zip(types, values, strict=True))})"


def address(value: str) -> Address:
    """Spell an address that eth_abi decoded (lower case) with its checksum."""
    return checksum_address(bytes.fromhex(value[2:]))


@functools.cache
def _errors() -> Mapping[bytes, tuple[str, tuple[str, ...]]]:
    found: dict[bytes, tuple[str, tuple[str, ...]]] = {
        bytes.fromhex("08c379a0"): ("Error", ("string",)),
        bytes.fromhex("4e487b71"): ("Panic", ("uint256",)),
    }
    for name in NAMES:
        resource = importlib.resources.files("veilpod.chain").joinpath("artifacts", f"{name}.json")
        for entry in json.loads(resource.read_text())["abi"]:
            if entry["type"] == "error":
                found[_selector(entry)] = (entry["name"], _types(entry["inputs"]))
    return found


def _function(entry: dict[str, Any]) -> Function:
    outputs = tuple(_as_bytes(kind) for kind in _types(entry["outputs"]))
    return Function(name=entry["name"], selector=_selector(entry), inputs=_types(entry["inputs"]), outputs=outputs)


def _event(contract_name: str, entry: dict[str, Any]) -> Event:
    arguments = [(item["name"], _as_bytes(_type(item)), item["indexed"]) for item in entry["inputs"]]
    return Event(
        contract=contract_name,
        name=entry["name"],
        topic="0x" + keccak256(_signature(entry)).hex(),
        indexed=tuple((name, kind) for name, kind, indexed in arguments if indexed),
        plain=tuple((name, kind) for name, kind, indexed in arguments if not indexed),
    )


def _selector(entry: dict[str, Any]) -> bytes:
    return keccak256(_signature(entry))[:4]


def _signature(entry: dict[str, Any]) -> bytes:
    return f"{entry['name']}({','.join(_types(entry['inputs']))})".encode()


def _types(items: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    return tuple(_type(item) for item in items)


def _type(item: dict[str, Any]) -> str:
    kind: str = item["type"]
    if kind.startswith("tuple"):
        return f"({','.join(_types(item['components']))}){kind.removeprefix('tuple')}"
    return kind


def _as_bytes(kind: str) -> str:
    return kind.replace("string", "bytes")  # encoded alike; whether it is UTF-8 is for who reads it


def _spell(kind: str, value: Any) -> str:
    return "0x" + value.hex() if isinstance(value, bytes) else address(value) if kind == "address" else str(value)
