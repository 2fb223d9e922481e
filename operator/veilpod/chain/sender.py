"""Transactions of one key: one nonce sequence, nothing lost in a crash, settled only with a receipt at depth.

The order that makes a crash harmless: sign, write to the outbox (fsync), then send. A transaction that vanished (a
reorganisation, a node that forgot it) is sent again as the same bytes; one that blocks pass over is signed again with the same
nonce and a higher fee. What a call means, and whether it is still wanted, is for `writer`.
"""

import asyncio
import contextlib
import dataclasses
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from veilpod.chain import fees
from veilpod.chain.heads import Heads, header
from veilpod.chain.outbox import Attempt, Outbox, Pending, Settled
from veilpod.chain.rpc import Rpc, RpcError
from veilpod.chain.signing import sign_transaction
from veilpod.chain.simulation import Call, Simulator
from veilpod.core.ids import Address
from veilpod.core.keys import SigningKey
from veilpod.errors import ChainUnavailable, Transient

log = logging.getLogger(__name__)

SETTLE_TIMEOUT = 180.0
STALL_SECONDS = 30.0
_KNOWN = ("already known", "known transaction", "already imported", "alreadyknown")
_FEE_TOO_LOW = ("underpriced", "less than block base fee", "fee too low", "max fee per gas less")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """How a transaction ended, at depth."""

    settled: Settled
    logs: Sequence[Mapping[str, Any]]  # as JSON-RPC spells them


class _Turn:
    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.holders = 0


class Sender:
    """The one sender of a key. `crank` is called by the owner of `heads` after each look."""

    def __init__(
        self,
        rpc: Rpc,
        heads: Heads,
        outbox: Outbox,
        key: SigningKey,
        chain_id: int,
        clock: Callable[[], float],
        fee_ceiling: int | None = None,
    ) -> None:
        self._rpc = rpc
        self._heads = heads
        self._outbox = outbox
        self._key = key
        self._chain_id = chain_id
        self._clock = clock
        self._fee_ceiling = fee_ceiling
        self._sending = asyncio.Lock()
        self._simulator = Simulator(rpc, heads, key.address)
        self._intents: dict[str, _Turn] = {}
        self._outcomes: dict[int, asyncio.Future[Receipt]] = {}
        self._moved_at: dict[int, float] = {}  # when a nonce was last sent
        self._mined: set[int] = set()
        self._expected: int | None = None  # the nonce that comes next, if nobody else sends with this key
        self.address = key.address
        self.foreign = 0  # transactions of this key that are not ours, seen since the start

    @property
    def pending(self) -> int:
        """How many transactions are not settled."""
        return len(self._outbox.pending)

    @property
    def pending_intents(self) -> frozenset[str]:
        """What the transactions that are not settled are for."""
        return frozenset(entry.intent for entry in self._outbox.pending)

    def history(self) -> Sequence[Settled]:
        """Every settled transaction of this key, oldest first: hash, gas used, purpose, block."""
        return self._outbox.history

    async def acted_at(self) -> int:
        """Unix seconds of the block of our newest settled transaction; 0 before the first."""
        if not self._outbox.history:
            return 0
        block = await header(self._rpc, self._outbox.history[-1].block)
        if block is None:
            raise ChainUnavailable("the node does not have a block that it had")
        return block.timestamp

    def close(self) -> None:
        """Give the key's lock back. What is pending stays on disk and is taken up by the next sender."""
        for outcome in self._outcomes.values():
            if not outcome.done():
                outcome.set_exception(ChainUnavailable("the connection to the chain is closed"))
        self._outbox.close()

    @contextlib.asynccontextmanager
    async def intent(self, name: str) -> AsyncIterator[None]:
        """Hold an intent: two callers with the same one follow each other."""
        turn = self._intents.setdefault(name, _Turn())
        turn.holders += 1
        try:
            async with turn.lock:
                yield
        finally:
            turn.holders -= 1
            if not turn.holders:
                del self._intents[name]

    async def adopt(self, intent: str) -> tuple[Pending, Receipt] | None:
        """Find an unsettled transaction for an intent (of an earlier life, or of a caller who left) and wait until it is settled."""
        for entry in self._outbox.pending:
            if entry.intent == intent:
                return entry, await self._settled(self._outcome(entry.nonce))
        return None

    async def send(self, call: Call) -> Receipt:
        """Simulate, send and wait for the receipt at depth.

        Raises ChainRejected with the custom error's name, InsufficientFunds, ChainUnavailable when it is not settled in time: it may
        still be, so the same intent must be adopted before it is sent again.
        """
        await self._simulator.simulate(call)
        gas = await self._simulator.gas(call)
        bid = fees.capped(await self._simulator.bid(), self._fee_ceiling)
        async with self._sending:
            outcome = await self._submit(call, gas, bid)
        self._heads.nudge()
        return await self._settled(outcome)

    async def crank(self) -> None:
        """Look after everything that is not settled: settle, send again, raise fees. Lowest nonce first. Raises ChainUnavailable."""
        await self._notice_strangers()
        for entry in self._outbox.pending:
            await self._advance(entry)

    async def _notice_strangers(self) -> None:
        """Count transactions that this key sent and we did not. Once is a person with the key; again and again is a second operator."""
        mined = await self._rpc.quantity("eth_getTransactionCount", self.address, "latest")
        if self._expected is None:
            self._expected = max(mined, max((entry.nonce + 1 for entry in self._outbox.pending), default=0))
        if mined > self._expected:
            self._stranger(mined - self._expected)
            self._expected = mined

    def _stranger(self, count: int) -> None:
        self.foreign += count
        log.error("chain.foreign_transactions", extra={"count": count, "remedy": "run one operator per chain key"})

    async def _submit(self, call: Call, gas: int, bid: fees.Fees) -> asyncio.Future[Receipt]:
        nonce = await self._next_nonce()
        attempt = self._sign(call, gas, nonce, bid)
        entry = Pending(
            nonce=nonce,
            intent=call.intent,
            purpose=call.purpose,
            to=call.to,
            value=call.value,
            data=call.data,
            gas=gas,
            attempts=(attempt,),
        )
        self._outbox.put(entry)
        self._expected = max(self._expected or 0, nonce + 1)
        outcome = self._outcome(nonce)
        try:
            await self._broadcast(entry)
        except Transient as error:
            if not isinstance(error, ChainUnavailable):  # the node said no: nobody has it, the nonce is free again
                self._forget(nonce)
                raise
            log.warning("chain.send_unconfirmed", extra={"purpose": call.purpose})
        return outcome

    async def _next_nonce(self) -> int:
        # Counted from what is on the chain and what is on our disk; a node's own count of pending transactions is a guess.
        mined = await self._rpc.quantity("eth_getTransactionCount", self.address, "latest")
        return max(mined, max((entry.nonce + 1 for entry in self._outbox.pending), default=0))

    async def _broadcast(self, entry: Pending) -> None:
        """Send the newest form. Raises ChainUnavailable when nobody knows, Transient when the node refused it."""
        self._moved_at[entry.nonce] = self._clock()
        try:
            await self._rpc.call("eth_sendRawTransaction", entry.attempts[-1].raw)
        except RpcError as error:
            message = error.message.lower()
            if any(text in message for text in _KNOWN) or "nonce too low" in message:
                return  # it is there, or it was mined; `_advance` tells which
            if any(text in message for text in _FEE_TOO_LOW):
                self._moved_at[entry.nonce] = self._clock() - STALL_SECONDS  # raise it at the next look
                return
            raise self._simulator.no_coin(error) or Transient(f"the node refused a transaction: {error.message}") from error
        log.info("chain.sent", extra={"purpose": entry.purpose, "transaction": entry.attempts[-1].hash})

    async def _advance(self, entry: Pending) -> None:
        for attempt in reversed(entry.attempts):
            receipt = await self._rpc.ask("eth_getTransactionReceipt", attempt.hash)
            if receipt is not None and receipt.get("blockNumber"):
                self._mined.add(entry.nonce)
                self._moved_at[entry.nonce] = self._clock()
                if self._heads.latest.number >= int(receipt["blockNumber"], 16) + self._heads.depth:
                    await self._settle(entry, attempt, receipt)
                return
        if entry.nonce in self._mined:
            self._mined.discard(entry.nonce)
            log.warning("chain.transaction_vanished", extra={"purpose": entry.purpose, "transaction": entry.attempts[-1].hash})
        if await self._lost_nonce(entry):
            return
        known = await self._rpc.ask("eth_getTransactionByHash", entry.attempts[-1].hash)
        if self._clock() - self._moved_at.get(entry.nonce, self._clock()) >= STALL_SECONDS:
            entry = await self._raise_fee(entry)
        elif known is not None:
            self._moved_at.setdefault(entry.nonce, self._clock())
            return
        try:
            await self._broadcast(entry)
        except Transient as error:  # it stays in the outbox and is tried at the next look
            log.warning("chain.send_failed", extra={"purpose": entry.purpose, "cause": str(error)})

    async def _lost_nonce(self, entry: Pending) -> bool:
        """Whether another transaction used the nonce, for sure: somebody else sends with this key."""
        block = self._heads.confirmed
        used = await self._rpc.quantity("eth_getTransactionCount", self.address, hex(block.number))
        if used <= entry.nonce:
            return False
        for attempt in entry.attempts:  # once more: it may have been mined between the two questions
            if await self._rpc.ask("eth_getTransactionReceipt", attempt.hash) is not None:
                return True
        log.error("chain.nonce_taken", extra={"purpose": entry.purpose, "nonce": entry.nonce})
        self._stranger(1)
        outcome = self._outcome(entry.nonce)
        self._forget(entry.nonce)
        if not outcome.done():
            outcome.set_exception(Transient("another transaction of this key took the nonce: two senders share one key"))
        return True

    async def _raise_fee(self, entry: Pending) -> Pending:
        last = entry.attempts[-1]
        bid = fees.raised(fees.Fees(max_fee=last.max_fee, priority_fee=last.priority_fee), await self._simulator.bid())
        if bid is None or fees.capped(bid, self._fee_ceiling) != bid:
            return entry
        attempt = self._sign(_call(entry), entry.gas, entry.nonce, bid)
        entry = dataclasses.replace(entry, attempts=(*entry.attempts, attempt))
        self._outbox.put(entry)
        log.info("chain.fee_raised", extra={"purpose": entry.purpose, "transaction": attempt.hash})
        return entry

    async def _settle(self, entry: Pending, attempt: Attempt, receipt: Mapping[str, Any]) -> None:
        block = await header(self._rpc, int(receipt["blockNumber"], 16))
        if block is None or block.hash != receipt["blockHash"]:
            return  # the receipt is of a block that is no more
        settled = Settled(
            hash=attempt.hash,
            nonce=entry.nonce,
            sender=self.address,
            purpose=entry.purpose,
            intent=entry.intent,
            block=block.number,
            succeeded=int(receipt["status"], 16) == 1,
            gas_used=int(receipt["gasUsed"], 16),
            fee=int(receipt["gasUsed"], 16) * int(receipt.get("effectiveGasPrice", "0x0"), 16),
            value=entry.value,
        )
        refusal = None if settled.succeeded else await self._simulator.why(_call(entry), block)
        outcome = self._outcome(entry.nonce)
        self._outbox.settle(settled)
        self._clear(entry.nonce)
        log.info("chain.settled", extra={"purpose": entry.purpose, "transaction": attempt.hash, "succeeded": settled.succeeded})
        if outcome.done():
            return
        if refusal is None:
            outcome.set_result(Receipt(settled=settled, logs=tuple(receipt.get("logs", ()))))
        else:
            outcome.set_exception(refusal)

    async def _settled(self, outcome: asyncio.Future[Receipt]) -> Receipt:
        try:
            async with asyncio.timeout(SETTLE_TIMEOUT):
                return await asyncio.shield(outcome)
        except TimeoutError as error:
            raise ChainUnavailable("a transaction is sent and not settled yet") from error

    def _sign(self, call: Call, gas: int, nonce: int, bid: fees.Fees) -> Attempt:
        transaction, raw = sign_transaction(
            self._key, chain_id=self._chain_id, nonce=nonce, to=call.to, value=call.value, data=call.data, gas=gas, bid=bid
        )
        return Attempt(hash=transaction, raw=raw, max_fee=bid.max_fee, priority_fee=bid.priority_fee)

    def _outcome(self, nonce: int) -> asyncio.Future[Receipt]:
        if nonce not in self._outcomes:
            outcome: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
            outcome.add_done_callback(_retrieved)
            self._outcomes[nonce] = outcome
        return self._outcomes[nonce]

    def _forget(self, nonce: int) -> None:
        self._outbox.drop(nonce)
        self._clear(nonce)

    def _clear(self, nonce: int) -> None:
        self._outcomes.pop(nonce, None)
        self._moved_at.pop(nonce, None)
        self._mined.discard(nonce)


def _call(entry: Pending) -> Call:
    return Call(intent=entry.intent, purpose=entry.purpose, to=Address(entry.to), data=entry.data, value=entry.value)


def _retrieved(outcome: "asyncio.Future[Receipt]") -> None:
    if not outcome.cancelled():
        outcome.exception()  # whoever waited has left; the history has it
