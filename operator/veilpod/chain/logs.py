"""Reading logs: by topic over any range, in pages that nodes answer, decoded once.

A page that a node finds too large is halved. Nothing is remembered here: the follower keeps a cursor, the reader its caches.
"""

import dataclasses
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from veilpod.chain import contracts
from veilpod.chain.rpc import Rpc, RpcError
from veilpod.core.ids import Address
from veilpod.errors import ChainUnavailable

PAGE = 5_000  # blocks a call: below every public node's limit that we know


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """One decoded event."""

    contract: str
    name: str
    args: Mapping[str, Any]
    topics: tuple[str, ...]
    block: int
    block_hash: str
    index: int
    transaction: bytes


Topics = Sequence[str | Sequence[str] | None]


async def read_logs(
    rpc: Rpc,
    addresses: contracts.Addresses,
    names: Sequence[str],
    topics: Topics,
    *,
    first: int,
    last: int,
    newest_first: bool = False,
) -> AsyncIterator[Log]:
    """Yield the logs of these contracts in blocks first..last (inclusive), oldest first unless told otherwise.

    Whoever looks for one event asks for the newest first and stops when it is there: a chain is long, and what is asked for is recent.
    """
    spelled = {addresses.of(name).lower(): name for name in names}
    page = PAGE
    while first <= last:
        start, stop = (max(first, last - page + 1), last) if newest_first else (first, min(last, first + page - 1))
        query = {"address": list(spelled), "topics": list(topics), "fromBlock": hex(start), "toBlock": hex(stop)}
        try:
            answer = await rpc.agreed("eth_getLogs", query)
        except RpcError as error:
            if stop == start:
                raise ChainUnavailable(f"the node refused {error}") from error
            page = max(1, (stop - start + 1) // 2)
            continue
        found = {(log.block, log.index): log for log in (_parse(item, spelled) for item in answer)}  # each once, whatever the node says
        if any(not start <= block <= stop for block, _ in found):
            raise ChainUnavailable("the node answered with logs of other blocks than it was asked for")
        for _, entry in sorted(found.items(), reverse=newest_first):
            if entry.name:
                yield entry
        first, last = (first, start - 1) if newest_first else (stop + 1, last)


async def all_logs(rpc: Rpc, addresses: contracts.Addresses, names: Sequence[str], topics: Topics, *, first: int, last: int) -> list[Log]:
    """Collect what `read_logs` yields, oldest first."""
    return [entry async for entry in read_logs(rpc, addresses, names, topics, first=first, last=last)]


def topic(contract: str, event: str) -> str:
    """The first topic of an event."""
    return contracts.contract(contract).events[event].topic


def indexed(value: bytes | int | Address) -> str:
    """Spell an indexed argument as a topic."""
    if isinstance(value, int):
        return f"0x{value:064x}"
    return "0x" + (value.hex() if isinstance(value, bytes) else value.removeprefix("0x").lower()).rjust(64, "0")


def _parse(item: Mapping[str, Any], spelled: Mapping[str, str]) -> Log:
    try:
        contract = spelled[item["address"].lower()]
        event = contracts.events_by_topic().get((contract, item["topics"][0]))
        return Log(
            contract=contract,
            name=event.name if event else "",  # a contract of a newer version may say more than we know
            args=event.decode(item["topics"], bytes.fromhex(item["data"][2:])) if event else {},
            topics=tuple(item["topics"]),
            block=int(item["blockNumber"], 16),
            block_hash=item["blockHash"],
            index=int(item["logIndex"], 16),
            transaction=bytes.fromhex(item["transactionHash"][2:]),
        )
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ChainUnavailable("the node's logs cannot be read") from error
