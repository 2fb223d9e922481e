"""One tower as one value: its guards, its three ports, and, once the chain answers, its eyes.

    clients   POST /v1/guard     a co-signed state -> a signed receipt
    admin     GET /v1/guards     what is guarded; on the pod's own loopback, for who may forward a port
    metrics   GET /metrics, /healthz, /readyz

A chain that is down is waited for loudly: alive, not ready. What is on disk is guarded from the moment the chain answers.
"""

import asyncio
import contextlib
import logging
import time
from typing import Any

from aiohttp import web

from veilpod import chain
from veilpod.chain.connection import POLL_SECONDS
from veilpod.core.canonical import canonical, parse_canonical, to_hex
from veilpod.core.guard import GUARD_PATH
from veilpod.core.keys import SigningKey
from veilpod.errors import ChainUnavailable, Terminal, Transient, VeilpodError
from veilpod.watchtower import metrics
from veilpod.watchtower.admission import Admission, Outcome
from veilpod.watchtower.decide import Guard
from veilpod.watchtower.guards import Guards
from veilpod.watchtower.http import Server
from veilpod.watchtower.purse import Purse, check_cap
from veilpod.watchtower.settings import Settings
from veilpod.watchtower.watch import Watch

log = logging.getLogger(__name__)

_CONNECT_PAUSE = 3.0
_BALANCE_SECONDS = 15.0
_JSON = "application/json"
_STATUS = {"OlderState": 409, "VersionTaken": 409, "TooOften": 429}


class Tower:
    """`run` serves until cancelled."""

    def __init__(self, settings: Settings, key: SigningKey, *, poll_seconds: float = POLL_SECONDS) -> None:
        self._settings, self._key = settings, key
        self._poll = poll_seconds
        check_cap(settings.cap, settings.max_fee)
        self._guards = Guards.open(settings.data / "guards", settings.domain)
        self._chain: chain.Chain | None = None
        self._purse: Purse | None = None
        self._admission: Admission | None = None
        self._balance = 0
        self._accepted = self._refused = 0
        self.watch: Watch | None = None
        self.clients = Server(web.post(GUARD_PATH, self._on_guard))
        self.admin = Server(web.get("/v1/guards", self._on_guards))
        self.metrics = Server(
            web.get("/metrics", self._on_metrics), web.get("/healthz", self._on_alive), web.get("/readyz", self._on_ready)
        )

    async def run(self) -> None:
        """Serve and watch until cancelled. Raises Terminal for a chain that is not the one configured."""
        settings = self._settings
        try:
            async with asyncio.TaskGroup() as group:
                for server, at in ((self.clients, settings.listen), (self.admin, settings.admin), (self.metrics, settings.metrics)):
                    group.create_task(server.serve(at.host, at.port))
                await self._connect()
                assert self.watch is not None
                group.create_task(self.watch.run())
                group.create_task(self._follow_balance())
        finally:
            if self._chain is not None:
                await self._chain.close()
            self._guards.close()

    def ready(self) -> str | None:
        """Why nothing is answered at the moment, or None."""
        return self._chain.problem if self._chain is not None else "the chain has not answered yet"

    async def _connect(self) -> None:
        settings = self._settings
        while self._chain is None:
            try:
                self._chain = await chain.connect(
                    settings.rpc_url,
                    chain_id=settings.chain_id,
                    addresses=settings.contracts,
                    state_dir=settings.data / "chain",
                    key=self._key,
                    depth=settings.confirmations,
                    fee_ceiling=settings.max_fee,
                    poll_seconds=self._poll,
                )
            except ChainUnavailable as error:
                log.warning("chain.waiting", extra={"why": str(error)})
                await asyncio.sleep(_CONNECT_PAUSE)
        link = self._chain
        self._purse = Purse(
            settings.data / "spent.json",
            cap=settings.cap,
            period=settings.period,
            fee_ceiling=settings.max_fee,
            history=link.history,
            pending=lambda: link.pending_intents,
        )
        self.watch = Watch(chain=link, guards=self._guards, purse=self._purse)
        self._admission = Admission(
            guards=self._guards,
            reader=link.reader,
            domain=settings.domain,
            key=self._key,
            keep=settings.keep,
            parties=settings.parties,
            on_guarded=self.watch.look_at,
            is_over=self.watch.is_over,
            clock=time.monotonic,
        )
        log.info("tower.ready", extra={"address": self._key.address, "guarded": len(self._guards.all)})

    async def _follow_balance(self) -> None:
        assert self._chain is not None
        while True:
            with contextlib.suppress(VeilpodError):  # the head's age tells of a chain that is away
                self._balance = await self._chain.reader.balance(self._key.address)
            await asyncio.sleep(_BALANCE_SECONDS)

    # -- clients

    async def _on_guard(self, request: web.Request) -> web.Response:
        try:
            if self._admission is None:
                raise ChainUnavailable("the tower has not seen the chain yet")
            outcome = await self._admission.guard(parse_canonical(await request.read()), remote=request.remote or "")
        except Terminal as error:
            self._refused += 1
            return _failure(_STATUS.get(error.reason, 400), error.reason, str(error))
        except (Transient, TimeoutError) as error:
            return _failure(503, "Unavailable", str(error) or "timed out")
        return self._told(outcome)

    def _told(self, outcome: Outcome) -> web.Response:
        receipt = outcome.receipt.document()
        if outcome.refusal is not None:
            self._refused += 1
            return _failure(_STATUS.get(outcome.refusal.reason, 400), outcome.refusal.reason, str(outcome.refusal), receipt=receipt)
        self._accepted += 1
        return web.Response(body=canonical({"ok": {"receipt": receipt}}), content_type=_JSON)

    # -- the tower's owner

    async def _on_guards(self, _: web.Request) -> web.Response:
        return web.json_response(await self._overview())

    async def _overview(self) -> dict[str, Any]:
        now = None
        with contextlib.suppress(VeilpodError):
            now = await self._chain.reader.now() if self._chain is not None else None
        return {
            "address": self._key.address,
            "problem": self.ready(),
            "now": now,
            "spending": {name: str(value) for name, value in self._spending(now).items()},
            "guards": [self._describe(guard) for guard in self._guards.all.values()],
        }

    def _describe(self, guard: Guard) -> dict[str, Any]:
        place, state = guard.held.place, guard.held.state
        answer = self.watch.last_answer(place.channel) if self.watch is not None else None
        dispute = self.watch.disputed.get(place.channel) if self.watch is not None else None
        return {
            "channelId": to_hex(place.channel),
            "a": place.a,
            "b": place.b,
            "version": state.version,
            "epoch": state.epoch,
            "sequence": state.sequence,
            "until": guard.until,
            "disputedUntil": dispute,
            "lastAnswer": None
            if answer is None
            else {"transaction": answer.hash, "block": answer.block, "succeeded": answer.succeeded, "fee": str(answer.fee)},
        }

    # -- probes

    async def _on_metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=metrics.render(await self._measure()), content_type="text/plain; version=0.0.4")

    async def _on_alive(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _on_ready(self, _: web.Request) -> web.Response:
        problem = self.ready()
        return web.Response(status=503 if problem else 200, text=f"{problem or 'ok'}\n")

    async def _measure(self) -> dict[str, float]:
        found: dict[str, float] = {"guarded": len(self._guards.all), "damaged": self._guards.damaged}
        found |= {"accepted_total": self._accepted, "refused_total": self._refused, "balance_wei": self._balance}
        if self._chain is None or self.watch is None:
            return found
        now, tally = await self._chain.reader.now(), self.watch.tally
        found |= {"head_age_seconds": self._chain.head_age, "pending_transactions": self._chain.pending_transactions}
        found |= {"disputed": len(self.watch.disputed), "owed": len(self.watch.owed), "cap_reached": int(self.watch.cap_reached)}
        found["least_seconds_left"] = max(0, min(self.watch.owed.values(), default=now) - now)
        found |= {"answers_total": tally.answers, "overtaken_total": tally.lost, "missed_total": tally.missed}
        return found | {f"{name}_wei" if name != "answers_affordable" else name: value for name, value in self._spending(now).items()}

    def _spending(self, now: int | None) -> dict[str, int]:
        if self._purse is None or now is None:
            return {}
        affordable = min(self._purse.left(now), self._balance) // self._purse.answer_cost
        return {"cap": self._purse.cap, "spent": self._purse.spent(now), "answers_affordable": affordable}


def _failure(status: int, code: str, message: str, **more: Any) -> web.Response:
    return web.Response(status=status, body=canonical({"error": {"code": code, "message": message[:1000]}, **more}), content_type=_JSON)
