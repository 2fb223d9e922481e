"""What the chain says is left over, or was done twice, of every task and channel since a block: an answer that needs nobody's word."""

import dataclasses
from collections import Counter

from demo.chain import artifacts
from demo.ledger import Ledger
from web3 import Web3

_KEY_OR_RESULT = 7  # of a task's view


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Reckoning:
    """Names of tasks and of channels' sessions."""

    tasks: tuple[str, ...]  # requested
    ended: dict[str, int]  # task -> time of the block that completed or closed it
    keys: tuple[str, ...]  # tasks whose sandbox key the chain still accepts
    channels: tuple[str, ...]  # sessions that were opened and never closed or cancelled
    twice: tuple[str, ...]  # what was settled more than once


def reckon(ledger: Ledger) -> Reckoning:
    """Read the chain."""
    events = ledger.events("scheduler")
    tasks = tuple("0x" + event["args"]["id"].hex() for event in events if event["name"] == "Requested")
    ends = [event for event in events if event["name"] in ("Completed", "Closed")]
    ended = {"0x" + event["args"]["id"].hex(): int(event["time"]) for event in ends}
    settled = Counter("0x" + event["args"]["id"].hex() for event in ends)
    reports = Counter(
        f"report {event['args']['index']} of 0x{event['args']['id'].hex()}" for event in events if event["name"] == "Reported"
    )
    published = [event for event in events if event["name"] == "KeyPublished"]
    opened, closed = Counter[str](), Counter[str]()
    for event in ledger.events("channels"):
        if event["name"] in ("Opening", "Closed", "Cancelled"):
            session = f"0x{event['channel'].id.hex()}/{event['channel'].epoch}"
            (opened if event["name"] == "Opening" else closed)[session] += 1
    twice = [task for counted in (settled, reports) for task, times in counted.items() if times > 1]
    return Reckoning(
        tasks=tasks,
        ended=ended,
        keys=tuple("0x" + event["args"]["id"].hex() for event in published if _valid(ledger, event["args"]["id"], event["args"]["key"])),
        channels=tuple(opened - closed),
        twice=(*twice, *(closed - opened)),
    )


def _valid(ledger: Ledger, task: bytes, key: str) -> bool:
    """Whether a published key still stands in the task's place for it: the end of a task overwrites it."""
    scheduler = ledger.web3.eth.contract(address=Web3.to_checksum_address(ledger.contracts["scheduler"]), abi=artifacts()["TaskScheduler"])
    return bytes(scheduler.functions.task(task).call()[_KEY_OR_RESULT])[-20:].hex() == key[2:].lower()
