"""What a server could do with its key and its disk, beside its operator."""

import base64
import contextlib
import json
import pathlib
from collections.abc import AsyncIterator

from demo import chain
from demo.parties import Party
from demo.stage import Stage

from veilpod.chain import Addresses, Chain, connect
from veilpod.chain.journal import Journal
from veilpod.core.canonical import from_hex
from veilpod.core.channel.records import Signed, StateRecord
from veilpod.core.entities import ChannelTerms
from veilpod.core.guard import Place
from veilpod.core.ids import Address, ChannelId
from veilpod.core.keys import SigningKey

_READ = (
    "import base64,json,pathlib;"
    "files=pathlib.Path('/var/lib/veilpod/channels').glob('*.journal');"
    "print(json.dumps({file.name:base64.b64encode(file.read_bytes()).decode() for file in files}))"
)


def signed_by(stage: Stage, server: Party, channel: str, directory: pathlib.Path) -> list[Signed]:
    """Every complete state of a channel in a server's journal, oldest first, over all its sessions."""
    text = stage.cluster.kubectl("exec", f"deployment/{server.name}-operator", "-n", server.name, "--", "python3", "-c", _READ)
    directory.mkdir(parents=True)
    for name, content in json.loads(text).items():
        (directory / name).write_bytes(base64.b64decode(content))
    journal = Journal.open(directory)
    try:
        records = journal.records(ChannelId(from_hex(channel, 32)))
    finally:
        journal.close()
    states = [record.signed for record in records if isinstance(record, StateRecord) and record.signed.complete]
    return sorted(states, key=lambda signed: signed.state.version)


def place_of(stage: Stage, server: Party, channel: str) -> Place:
    """A channel's parties and terms: the same in each of its sessions."""
    items = stage.cluster.get("statechannel", "-n", server.name)["items"]
    spec = next(item["spec"] for item in items if item["spec"]["channelId"] == channel)
    terms = ChannelTerms(asset=spec["asset"], lane=spec["lane"], challenge_period=spec["challengePeriod"], penalty_bps=spec["penaltyBps"])
    return Place(a=spec["a"], b=spec["b"], terms=terms)


@contextlib.asynccontextmanager
async def by_hand(url: str, stage: Stage, key: SigningKey, directory: pathlib.Path) -> AsyncIterator[Chain]:
    """A party's own connection, beside every operator."""
    names = ("registry", "scheduler", "channels")
    addresses = Addresses(**{name: Address(stage.contracts[name]) for name in names})
    async with await connect(url, chain_id=chain.CHAIN_ID, addresses=addresses, state_dir=directory, key=key, depth=0) as link:
        yield link


async def challenge(url: str, stage: Stage, key: SigningKey, place: Place, old: Signed, directory: pathlib.Path) -> None:
    """What a cheater does."""
    async with by_hand(url, stage, key, directory) as link:
        peers = old.signature_b if place.a == key.address else old.signature_a
        await link.writer.challenge(place.a, place.b, place.terms, old.state, peers)


async def finalize(url: str, stage: Stage, key: SigningKey, place: Place, directory: pathlib.Path) -> None:
    async with by_hand(url, stage, key, directory) as link:
        await link.writer.finalize(place.a, place.b, place.terms)
