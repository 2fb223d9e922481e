"""One release's connection to the chain: reader, writer, follower, and the one loop that keeps them true.

`connect` refuses to start on the wrong chain. Afterwards an RPC that is down makes every call ChainUnavailable and is tried
again; an RPC that comes back as another chain stays refused. Readiness and metrics read the attributes of `Chain`; nothing is
exported here.
"""

import asyncio
import contextlib
import dataclasses
import logging
import pathlib
import time
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType

from veilpod.chain import contracts, fees
from veilpod.chain.files import private_directory
from veilpod.chain.follower import Follower
from veilpod.chain.heads import Heads
from veilpod.chain.network import NetworkCheck
from veilpod.chain.outbox import Outbox, Settled
from veilpod.chain.reader import Reader
from veilpod.chain.rpc import Rpc
from veilpod.chain.sender import Sender
from veilpod.chain.witness import Witness
from veilpod.chain.writer import Writer
from veilpod.core.keys import SigningKey, parse_address
from veilpod.errors import InvalidInput, ProtocolViolation, Terminal, VeilpodError

log = logging.getLogger(__name__)

POLL_SECONDS = 0.5
_LOOK_ANYWAY_SECONDS = 5.0
_STALE_SECONDS = 300.0  # longer than any public chain pauses between blocks


class Chain:
    """What `connect` returns. Close it, or use it with `async with`."""

    def __init__(self, rpc: Rpc, heads: Heads, reader: Reader, writer: Writer | None, sender: Sender | None, poll: float) -> None:
        self._rpc = rpc
        self._heads = heads
        self._writer = writer
        self._sender = sender
        self._poll = poll
        self._keeper: asyncio.Task[None] | None = None
        self.reader = reader
        self.failure: Terminal | None = None  # why this chain is refused, once it is: a person must act

    @property
    def writer(self) -> Writer:
        """Our key's side. Raises InvalidInput("NoChainKey") when `connect` was given none."""
        if self._writer is None:
            raise InvalidInput("NoChainKey", "this connection only reads: it was made without a chain key")
        return self._writer

    @property
    def reachable(self) -> bool:
        """Whether the RPC answered the last call."""
        return self._rpc.reachable

    @property
    def head_block(self) -> int:
        """Number of the newest block seen. The metric of a dead RPC is its last number; `head_age` tells."""
        return self._heads.latest.number

    @property
    def head_age(self) -> float:
        """Seconds since a new block was seen."""
        return self._heads.age

    @property
    def gas_price(self) -> int:
        """What we would bid at most for one gas now, the tip left out. Wei."""
        return fees.suggest(base_fee=self._heads.latest.base_fee, tip=0).max_fee

    @property
    def pending_transactions(self) -> int:
        """How many of our transactions are not settled."""
        return self._sender.pending if self._sender else 0

    @property
    def pending_intents(self) -> frozenset[str]:
        """What our transactions that are not settled are for."""
        return self._sender.pending_intents if self._sender else frozenset()

    @property
    def foreign_transactions(self) -> int:
        """How many transactions of our key somebody else sent since the start: more than a few mean a second operator."""
        return self._sender.foreign if self._sender else 0

    @property
    def reorgs(self) -> int:
        """How often a confirmed block was not final."""
        return self._heads.reorgs

    @property
    def disagreement(self) -> str | None:
        """What our RPC endpoint and the second one differ in, lately."""
        return self._rpc.witness.disagreement if self._rpc.witness else None

    @property
    def second_silence(self) -> float:
        """Seconds since the second endpoint answered; 0 when there is none."""
        return self._rpc.witness.silence if self._rpc.witness else 0.0

    @property
    def disagreements(self) -> int:
        """How often the two endpoints differed."""
        return self._rpc.witness.disagreements if self._rpc.witness else 0

    @property
    def problem(self) -> str | None:
        """Why nothing that depends on the chain is done at the moment, for a readiness probe; None while all is well."""
        if self.failure is not None:
            return f"the chain is refused: {self.failure.reason}"
        if not self.reachable:
            return "the chain does not answer"
        if self.head_age > _STALE_SECONDS:
            return f"the chain has made no block for {self.head_age:.0f} s: is the RPC endpoint cut off from it?"
        if self.disagreement is not None:
            return f"two RPC endpoints contradict each other: {self.disagreement}"
        return None

    def history(self) -> Sequence[Settled]:
        """Our settled transactions, oldest first."""
        return self._sender.history() if self._sender else ()

    async def __aenter__(self) -> "Chain":
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    async def close(self) -> None:
        """Stop looking, give the key's lock back, close the connection. Pending transactions stay on disk."""
        if self._keeper is not None:
            self._keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeper
        if self._sender is not None:
            self._sender.close()
        await self._rpc.close()

    def start(self) -> None:
        """Start the loop that follows the head and looks after our transactions."""
        self._keeper = asyncio.create_task(self._keep(), name="chain.keeper")
        self._keeper.add_done_callback(self._kept)

    def _kept(self, keeper: "asyncio.Task[None]") -> None:
        if not keeper.cancelled() and (error := keeper.exception()) is not None:
            # A defect. The head grows old from here on and readiness fails; reads must not go on from the last block.
            log.critical("chain.keeper_died", exc_info=error)
            self._heads.give_up()

    async def _keep(self) -> None:
        looked_at = float("-inf")
        while True:
            try:
                changed = await self._heads.refresh()
                if self._sender is not None and (changed or time.monotonic() - looked_at >= _LOOK_ANYWAY_SECONDS):
                    looked_at = time.monotonic()
                    await self._sender.crank()
                self.failure = None
            except Terminal as error:
                if self.failure is None:
                    log.error("chain.refused", extra={"reason": error.reason, "cause": str(error)})
                self.failure = error
            except VeilpodError as error:
                log.debug("chain.look_failed", extra={"cause": str(error)})
            await self._heads.pause(self._poll)


async def connect(
    url: str,
    *,
    chain_id: int,
    addresses: contracts.Addresses,
    state_dir: pathlib.Path,
    key: SigningKey | None = None,
    depth: int = 1,
    cross_check_url: str | None = None,
    poll_seconds: float = POLL_SECONDS,
    fee_ceiling: int | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Chain:
    """Connect to a chain; what is read and sent is final `depth` blocks below the newest, and believed when the second endpoint agrees.

    No transaction of ours bids more than `fee_ceiling` wei per gas.

    Raises ChainUnavailable while the RPC is down; InvalidInput with reason WrongChain, ContractMissing or ChainReplaced;
    Refused("SenderActive") when another process sends with this key and state directory.
    """
    private_directory(state_dir)
    addresses = _spelled(addresses)
    witness = Witness(Rpc(cross_check_url, check=_same_id(chain_id)), clock=clock) if cross_check_url else None
    rpc = Rpc(url, check=NetworkCheck(chain_id=chain_id, addresses=addresses, state_dir=state_dir), witness=witness)
    outbox: Outbox | None = None
    try:
        heads = Heads(rpc, depth=depth, clock=clock)
        await heads.refresh()
        follower = Follower(rpc, heads, addresses, state_dir / "cursor.json")
        follower.start()
        reader = Reader(rpc, heads, addresses, follower)
        sender = writer = None
        if key is not None:
            outbox = Outbox.open(state_dir, key.address)
            sender = Sender(rpc, heads, outbox, key, chain_id, clock, fee_ceiling)
            writer = Writer(sender, reader, heads, addresses)
    except BaseException:
        if outbox is not None:
            outbox.close()
        await rpc.close()
        raise
    chain = Chain(rpc, heads, reader, writer, sender, poll_seconds)
    chain.start()
    return chain


def _same_id(chain_id: int) -> Callable[[Rpc], Awaitable[None]]:
    """The check of the second endpoint. That its blocks are ours, every comparison tells."""

    async def check(rpc: Rpc) -> None:
        answer = await rpc.quantity("eth_chainId")
        if answer != chain_id:
            raise InvalidInput(
                "WrongChain", f"the second RPC endpoint serves chain {answer}, this release is configured for chain {chain_id}"
            )

    return check


def _spelled(addresses: contracts.Addresses) -> contracts.Addresses:
    """One spelling for every address, so that they can be compared."""
    try:
        return dataclasses.replace(
            addresses,
            registry=parse_address(addresses.registry),
            scheduler=parse_address(addresses.scheduler),
            channels=parse_address(addresses.channels),
        )
    except ProtocolViolation as error:
        raise InvalidInput("InvalidDeployment", f"a contract's address: {error}") from error
