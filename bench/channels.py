"""The hot path of channels: what one core signs and verifies a second, and what two operators agree on a second over loopback.

`python -m bench.channels`. The second half runs the real desk, machine and journal in two processes; between them is one TCP connection
where in the product there are two agents and a circuit, so it says what operators can do, not what the network lets them do.
"""

import argparse
import asyncio
import contextlib
import dataclasses
import itertools
import json
import pathlib
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

from coincurve._libsecp256k1 import ffi, lib  # type: ignore[import-not-found]  # a C extension has no stubs
from coincurve.context import GLOBAL_CONTEXT
from tests.support.channels import CHANNEL, DOMAIN, KEYS, TERMS, A, Agents, link, opening

from bench.report import ROOT, Row, write
from veilpod.chain.journal import Journal
from veilpod.control.channel_desk import ChannelDesk, Line
from veilpod.core.canonical import keccak256
from veilpod.core.channel.machine import Party
from veilpod.core.channel.state import ChannelState
from veilpod.core.ids import ChannelId, ServerIndex
from veilpod.core.keys import recover

ROUNDS = 25
ROUND_SECONDS = 0.2
UPDATES = 1000
LANES = 16
DEPOSIT = 10**12
KEY = KEYS[Party.A]


# -- one core: digest, sign, verify


def full_update(state: ChannelState) -> None:
    """What one party computes for one co-signed state: its digest, the own signature, the check of the peer's."""
    digest = state.digest(DOMAIN, CHANNEL)
    if recover(digest, KEY.sign(digest)) != A:
        raise AssertionError("a signature that does not verify")


def states() -> Iterator[ChannelState]:
    """States, made before the clock runs. Nothing is remembered of one that would help when it comes again."""
    first = opening(deposit_a=DEPOSIT)
    made = [dataclasses.replace(first, version=first.version + n, data_hash=n.to_bytes(32, "big")) for n in range(1, 10_000)]
    return itertools.cycle(made)


def raw_sign_and_verify() -> Callable[[], None]:
    """libsecp256k1 alone, through coincurve's lowest level: no hash, no address, no bytes made. The limit."""
    context, secret, digest = GLOBAL_CONTEXT.ctx, KEY.secret, keccak256(b"a digest")
    public, signature = ffi.new("secp256k1_pubkey *"), ffi.new("secp256k1_ecdsa_signature *")
    if not lib.secp256k1_ec_pubkey_create(context, public, secret):
        raise AssertionError("no key")

    def once() -> None:
        lib.secp256k1_ecdsa_sign(context, signature, digest, secret, ffi.NULL, ffi.NULL)
        if not lib.secp256k1_ecdsa_verify(context, signature, digest, public):
            raise AssertionError("a signature that does not verify")

    return once


def rate(once: Callable[[], None]) -> float:
    """How often in a second of one core, in one round. Processor time: what else the machine does meanwhile is not our speed."""
    count, begin = 0, time.process_time()
    while (passed := time.process_time() - begin) < ROUND_SECONDS:
        for _ in range(100):
            once()
        count += 100
    return count / passed


def one_core() -> list[Row]:
    """Take turns, so that both see the same machine; the best round of each counts, as in timeit: others only ever slow us down."""
    several, raw = states(), raw_sign_and_verify()
    turns = [(rate(lambda: full_update(next(several))), rate(raw)) for _ in range(ROUNDS)]
    ours, limit = (max(column) for column in zip(*turns, strict=True))
    return [
        Row(name="update-rate", value=round(ours), unit="updates/s", bar=8000, better="higher"),
        Row(name="update-ratio-to-libsecp256k1", value=round(ours / limit, 3), unit="", bar=0.65, better="higher"),
        Row(name="libsecp256k1-rate", value=round(limit), unit="pairs/s", better="higher"),
    ]


# -- two processes


class Operator:
    """One side: the product's desk and journal, and a connection to the other side. Channels are numbered lanes."""

    def __init__(self, party: Party, directory: pathlib.Path, writer: asyncio.StreamWriter) -> None:
        self.journal = Journal.open(directory)
        self.covered: dict[str, asyncio.Event] = {}
        self.desk = ChannelDesk(
            journal=self.journal, key=KEYS[party], find_line=self._line, call=self._call, on_final=lambda _: None
        )  # fmt: skip
        self._party, self._writer = party, writer

    async def _line(self, name: str, peer: ServerIndex) -> Line:
        channel = ChannelId(keccak256(name.encode()))
        return Line(
            assignment=name, peer=peer, link=dataclasses.replace(link(price=1000), channel=channel), terms=TERMS, party=self._party,
            opening=opening(deposit_a=DEPOSIT, deposit_b=DEPOSIT),
        )  # fmt: skip

    async def _call(self, name: str, command: str, args: dict[str, Any]) -> None:
        if command == "channel":
            self._writer.write(json.dumps([name, args["payload"]]).encode() + b"\n")
            await self._writer.drain()
        elif name in self.covered:
            self.covered[name].set()

    async def listen(self, reader: asyncio.StreamReader) -> None:
        """Take the other side's messages: one at a time for a channel, channels side by side."""
        async with asyncio.TaskGroup() as group:
            while line := await reader.readline():
                name, payload = json.loads(line)
                group.create_task(self.desk.on_message(name, ServerIndex(1), payload))


async def transfer(operator: Operator, name: str, documents: list[Any]) -> list[float]:
    """Pay for one receipt after the other, each with a co-signed state. Seconds that each took."""
    took = []
    for document in documents:
        begin, operator.covered[name] = time.perf_counter(), asyncio.Event()
        await operator.desk.on_receipt(name, ServerIndex(1), document)
        await operator.covered[name].wait()
        took.append(time.perf_counter() - begin)
    return took


async def proposing(directory: pathlib.Path) -> list[Row]:
    """Start the peer's process, play one channel and then many side by side."""
    met: asyncio.Future[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.get_running_loop().create_future()
    server = await asyncio.start_server(lambda *streams: met.set_result(streams), "127.0.0.1", 0, limit=1 << 20)
    port = server.sockets[0].getsockname()[1]
    peer = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.channels", "--accept", str(port), str(directory / "b"), cwd=ROOT
    )
    try:
        reader, writer = await asyncio.wait_for(met, 30)
        operator = Operator(Party.A, directory / "a", writer)
        listening = asyncio.create_task(operator.listen(reader))
        agents = Agents()
        documents = [agents.transfer(0, 1 << 20).document() for _ in range(UPDATES)]
        single = await transfer(operator, "alone", documents)
        begin = time.perf_counter()
        many = await asyncio.gather(*(transfer(operator, f"lane {lane}", documents[: UPDATES // LANES]) for lane in range(LANES)))
        passed = time.perf_counter() - begin
        writer.close()
        await peer.wait()
        await listening
        operator.journal.close()
    finally:
        if peer.returncode is None:
            peer.kill()
            await peer.wait()
        server.close()
    together = sorted(seconds for took in many for seconds in took)
    return [
        Row(name="two-process-rate", value=round(len(single) / sum(single), 1), unit="updates/s", better="higher"),
        Row(name="two-process-p99-ms", value=round(_p99(sorted(single)) * 1000, 2), unit="ms"),
        Row(name=f"two-process-{LANES}-channels-rate", value=round(len(together) / passed, 1), unit="updates/s", better="higher"),
        Row(name=f"two-process-{LANES}-channels-p99-ms", value=round(_p99(together) * 1000, 2), unit="ms"),
    ]


async def accepting(port: int, directory: pathlib.Path) -> None:
    """Be the peer until the connection ends."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
    operator = Operator(Party.B, directory, writer)
    with contextlib.suppress(ConnectionError):
        await operator.listen(reader)
    writer.close()
    operator.journal.close()


def _p99(sorted_seconds: list[float]) -> float:
    return sorted_seconds[int(len(sorted_seconds) * 0.99)]


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--accept", nargs=2, metavar=("PORT", "DIRECTORY"), help="be the second process")
    accept = parser.parse_args().accept
    if accept:
        asyncio.run(accepting(int(accept[0]), pathlib.Path(accept[1])))
        return
    (ROOT / "build").mkdir(exist_ok=True)  # a disk, where /tmp may be memory
    with tempfile.TemporaryDirectory(dir=ROOT / "build") as directory:
        write("channels", one_core() + asyncio.run(proposing(pathlib.Path(directory))))


if __name__ == "__main__":
    main()
