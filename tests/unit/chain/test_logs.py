import pytest

from veilpod.chain import logs
from veilpod.chain.contracts import Addresses, contract
from veilpod.chain.rpc import RpcError
from veilpod.core.keys import checksum_address
from veilpod.errors import ChainUnavailable

ADDRESSES = Addresses(
    registry=checksum_address(b"\x01" * 20), scheduler=checksum_address(b"\x02" * 20), channels=checksum_address(b"\x03" * 20)
)
STOPPING = contract("TaskScheduler").events["Stopping"].topic


def entry(block, index=0, *, topic=STOPPING, **change):
    return {
        "address": ADDRESSES.scheduler.lower(), "topics": [topic, "0x" + "07" * 32], "data": "0x", "blockNumber": hex(block),
        "blockHash": "0x" + "aa" * 32, "logIndex": hex(index), "transactionHash": "0x" + "bb" * 32,
    } | change  # fmt: skip


class Node:
    """A node that answers for `limit` blocks at a time."""

    def __init__(self, entries, limit=10**9):
        self.entries, self.limit, self.asked = entries, limit, []

    async def agreed(self, method, query):
        first, last = int(query["fromBlock"], 16), int(query["toBlock"], 16)
        self.asked.append((first, last))
        if last - first + 1 > self.limit:
            raise RpcError(method, -32005, "query returned more than 10000 results", None)
        return [item for item in self.entries if first <= int(item["blockNumber"], 16) <= last]


async def collect(node, **options):
    return [found.block async for found in logs.read_logs(node, ADDRESSES, ["TaskScheduler"], [], **options)]


async def test_a_page_that_is_too_large_is_halved_and_nothing_is_missed(monkeypatch):
    monkeypatch.setattr(logs, "PAGE", 100)
    node = Node([entry(block) for block in (0, 1, 50, 99, 100, 250)], limit=30)
    assert await collect(node, first=0, last=250) == [0, 1, 50, 99, 100, 250]
    node.asked.clear()
    assert await collect(node, first=0, last=250, newest_first=True) == [250, 100, 99, 50, 1, 0]


async def test_whoever_wants_the_newest_event_reads_no_further(monkeypatch):
    monkeypatch.setattr(logs, "PAGE", 100)
    node = Node([entry(5), entry(990, 1), entry(990, 2)])
    async for found in logs.read_logs(node, ADDRESSES, ["TaskScheduler"], [], first=0, last=1000, newest_first=True):
        assert (found.block, found.index) == (990, 2)
        break
    assert node.asked == [(901, 1000)]


async def test_events_of_a_newer_contract_are_passed_over():
    node = Node([entry(1, topic="0x" + "55" * 32), entry(2)])
    assert await collect(node, first=0, last=9) == [2]


async def test_a_refusal_of_a_single_block_is_no_empty_answer():
    with pytest.raises(ChainUnavailable):
        await collect(Node([], limit=0), first=3, last=5)


@pytest.mark.parametrize(
    "change", [{"blockNumber": None}, {"address": "0x" + "09" * 20}, {"topics": []}, {"topics": [STOPPING]}, {"logIndex": "x"}, {"data": 5}]
)
async def test_a_log_that_cannot_be_read_is_not_believed(change):
    class Liar:
        async def agreed(self, method, query):
            return [entry(1) | change]

    with pytest.raises(ChainUnavailable):
        await collect(Liar(), first=0, last=9)


async def test_events_are_decoded_by_name():
    node = Node([entry(4)])
    (found,) = await logs.all_logs(node, ADDRESSES, ["TaskScheduler"], [], first=0, last=9)
    assert (found.contract, found.name, found.args) == ("TaskScheduler", "Stopping", {"id": b"\x07" * 32})
