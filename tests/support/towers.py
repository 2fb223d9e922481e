"""Watchtowers in tests: a tower in this process, a channel between two of anvil's accounts, and states that both have signed."""

import asyncio
import contextlib
import dataclasses
import pathlib
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
from tests.support.anvil import CHAIN_ID, Anvil, account
from tests.support.channels import TERMS

from veilpod.core.canonical import canonical, keccak256, parse_canonical
from veilpod.core.channel.state import ChannelState, order
from veilpod.core.entities import ChannelTerms
from veilpod.core.guard import GUARD_PATH, Guarded, GuardReceipt, Place, parse_receipt, request_document
from veilpod.core.keys import SigningKey
from veilpod.core.typed_data import Domain
from veilpod.net.process import Listen
from veilpod.watchtower.service import Tower
from veilpod.watchtower.settings import Settings

DEPOSIT = 10**9
PENALISED = dataclasses.replace(TERMS, penalty_bps=1000, challenge_period=600)
GWEI = 10**9
ANY = Listen(host="127.0.0.1", port=0)


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two parties and their channel."""

    keys: dict[str, SigningKey]
    place: Place
    domain: Domain

    def state(self, sequence: int, *, paid_to_b: int = 0, epoch: int = 1) -> ChannelState:
        return ChannelState(
            version=epoch << 40 | sequence,
            balance_a=DEPOSIT - paid_to_b,
            balance_b=DEPOSIT + paid_to_b,
            data_hash=keccak256(b"%d" % sequence),
        )

    def signed(self, state: ChannelState, *, domain: Domain | None = None, key_b: SigningKey | None = None) -> Guarded:
        digest = state.digest(domain or self.domain, self.place.channel)
        key_a, key_b = self.keys[self.place.a], key_b or self.keys[self.place.b]
        return Guarded(place=self.place, state=state, signature_a=key_a.sign(digest), signature_b=key_b.sign(digest))

    def agreed(self, sequence: int, **options: Any) -> Guarded:
        return self.signed(self.state(sequence, **options))


def pair(domain: Domain, *keys: SigningKey, terms: ChannelTerms = PENALISED) -> Pair:
    known = {key.address: key for key in keys}
    a, b = order(*known)
    return Pair(keys=known, place=Place(a=a, b=b, terms=terms), domain=domain)


def settings(anvil: Anvil, data: pathlib.Path, **changes: Any) -> Settings:
    assert anvil.addresses
    parts: dict[str, Any] = {
        "rpc_url": anvil.url,
        "chain_id": CHAIN_ID,
        "contracts": anvil.addresses,
        "confirmations": 0,
        "data": data,
        "key_file": data / "key",
        "listen": ANY,
        "admin": ANY,
        "metrics": ANY,
        "cap": 10**18,
        "period": 86_400,
        "max_fee": 100 * GWEI,
        "keep": 30 * 86_400,
        "parties": (account(1).address,),
        "log_level": "INFO",
    }
    return Settings(**parts | changes)


@contextlib.asynccontextmanager
async def running(anvil: Anvil, data: pathlib.Path, *, index: int = 5, **changes: Any) -> AsyncIterator[Tower]:
    """A tower with one of anvil's accounts as its hot key. Leaving the block ends it as a crash would: nothing is told to anybody."""
    tower = Tower(settings(anvil, data, **changes), account(index), poll_seconds=0.05)
    task = asyncio.create_task(tower.run())
    try:
        async with asyncio.timeout(20):
            while tower.ready() is not None or not tower.clients.listening.is_set() or tower.watch is None:
                if task.done():
                    await task
                await asyncio.sleep(0.01)
        yield tower
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def post(url: str, body: bytes) -> tuple[int, dict[str, Any]]:
    async with aiohttp.ClientSession() as session, session.post(url + GUARD_PATH, data=body) as answer:
        found = await answer.read()
        return answer.status, parse_canonical(found)


async def get(port: int, path: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}{path}") as answer:
        return answer.status, await answer.text()


async def hand_in(tower: Tower, guarded: Guarded, *, domain: Domain) -> tuple[str, GuardReceipt | None]:
    """What the tower says: "" or the refusal's code, and the receipt, if any."""
    status, answer = await post(f"http://127.0.0.1:{tower.clients.port}", canonical(request_document(domain, guarded)))
    assert (status == 200) == ("ok" in answer)
    receipt = answer["ok"]["receipt"] if "ok" in answer else answer.get("receipt")
    return answer.get("error", {}).get("code", ""), parse_receipt(receipt) if receipt else None


async def measured(tower: Tower) -> dict[str, float]:
    status, text = await get(tower.metrics.port, "/metrics")
    assert status == 200
    pairs = [line.split(" ") for line in text.splitlines() if not line.startswith("#")]
    return {name.removeprefix("veilpod_watchtower_"): float(value) for name, value in pairs}
