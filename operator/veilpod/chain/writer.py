"""What our own key does on chain, call by call (ports.ChainWriter).

Every call has an intent and, where the contract allows it, a way to see that it is done. The order is always the same: adopt an
unsettled transaction with this intent, else look whether it is done, else send. So a caller who crashed, was cancelled or timed
out simply calls again. How a transaction gets through is for `sender`.
"""

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from veilpod.chain import abi, contracts
from veilpod.chain.heads import Header, Heads
from veilpod.chain.reader import Reader
from veilpod.chain.sender import Receipt, Sender
from veilpod.chain.simulation import Call
from veilpod.core.canonical import keccak256
from veilpod.core.channel.state import ChannelState, channel_id, pack_terms
from veilpod.core.dataset_spec import resource_id
from veilpod.core.entities import NATIVE, ChainChannel, ChainTask, ChannelPhase, ChannelTerms, NodeStatus, Role, TaskPhase, Terms
from veilpod.core.ids import Address, ChannelId, NodeId, ResourceId, TaskId
from veilpod.errors import ChainRejected, ChainUnavailable, InsufficientFunds, InvalidInput, Transient

log = logging.getLogger(__name__)

Done = Callable[[Header], Awaitable[bool]]
_UNLIMITED = (1 << 256) - 1


class Writer:
    """ports.ChainWriter for one key."""

    def __init__(self, sender: Sender, reader: Reader, heads: Heads, addresses: contracts.Addresses) -> None:
        self._sender = sender
        self._reader = reader
        self._heads = heads
        self._addresses = addresses

    @property
    def address(self) -> Address:
        return self._sender.address

    async def acted_at(self) -> int:
        return await self._sender.acted_at()

    # Nodes and resources

    async def register(self, *, roles: Role, capacity: int, identity_key: bytes, onion_key: bytes, endpoint: str, proof: bytes) -> NodeId:
        async def find() -> NodeId | None:
            mine = [
                node.id
                for node in await self._reader.directory(roles)
                if (node.owner, node.roles, node.identity_key) == (self.address, roles, identity_key)
                and node.status is not NodeStatus.RETIRED
            ]
            return max(mine, default=None)

        async def done(block: Header) -> bool:
            return await find() is not None

        await self._do(
            f"register:{int(roles)}:{identity_key.hex()}",
            "NodeRegistry.register",
            (int(roles), capacity, identity_key, onion_key, endpoint, _words(proof)),
            done=done,
        )
        node = await find()
        if node is None:
            raise ChainUnavailable("a registered node is not in the directory")
        return node

    async def rotate_key(self, node: NodeId, *, onion_key: bytes, proof: bytes) -> None:
        async def done(block: Header) -> bool:
            return (await self._reader.node_at(block, node)).onion_key == onion_key

        await self._do(f"rotateKey:{node}", "NodeRegistry.rotateKey", (node, onion_key, _words(proof)), done=done)

    async def set_endpoint(self, node: NodeId, endpoint: str) -> None:
        async def done(block: Header) -> bool:
            return (await self._reader.node_at(block, node)).endpoint == endpoint

        await self._do(f"setEndpoint:{node}", "NodeRegistry.setEndpoint", (node, endpoint), done=done)

    async def set_capacity(self, node: NodeId, capacity: int) -> None:
        async def done(block: Header) -> bool:
            return (await self._reader.node_at(block, node)).capacity == capacity

        await self._do(f"setCapacity:{node}", "NodeRegistry.setCapacity", (node, capacity), done=done)

    async def set_status(self, node: NodeId, status: NodeStatus) -> None:
        async def done(block: Header) -> bool:
            return (await self._reader.node_at(block, node)).status is status

        await self._do(f"setStatus:{node}", "NodeRegistry.setStatus", (node, int(status)), done=done)

    async def heartbeat(self, node: NodeId) -> None:
        await self._do(f"heartbeat:{node}", "NodeRegistry.heartbeat", (node,))

    async def add_resource(self, *, node: NodeId, name: str, digest: bytes, size: int) -> ResourceId:
        resource = resource_id(self.address, name)

        async def done(block: Header) -> bool:
            found = await self._reader.resource_at(block, resource)
            return found is not None and not found.revoked and (found.node, found.digest, found.size) == (node, digest, size)

        await self._do(f"addResource:{resource.hex()}", "NodeRegistry.addResource", (node, name, digest, size), done=done)
        return resource

    async def revoke_resource(self, resource: ResourceId) -> None:
        async def done(block: Header) -> bool:
            found = await self._reader.resource_at(block, resource)
            return found is not None and found.revoked

        await self._do(f"revokeResource:{resource.hex()}", "NodeRegistry.revokeResource", (resource,), done=done)

    # Tasks

    async def request(self, *, salt: bytes, spec: bytes, terms: Terms, budget: int, asset: Address = NATIVE) -> TaskId:
        task = TaskId(keccak256(abi.encode(["address", "bytes32"], [self.address, salt])))
        packed = (
            terms.servers,
            terms.per_server,
            terms.stake,
            terms.schedule_by,
            terms.key_by,
            terms.complete_by,
            terms.report_by,
        )
        done = self._task_is(task, lambda found: found.phase is not TaskPhase.NONE)
        if asset == NATIVE:
            await self._do(f"request:{task.hex()}", "TaskScheduler.request", (salt, spec, packed), value=budget, done=done)
        else:
            await self._allow(asset, "TaskScheduler")
            arguments = (salt, spec, packed, asset, budget)
            await self._do(f"request:{task.hex()}", "TaskScheduler.requestWithERC20", arguments, done=done)
        return task

    async def assign(self, task: TaskId, compute: Sequence[NodeId], stores: Sequence[NodeId]) -> None:
        done = self._task_is(task, lambda found: (found.compute, found.stores) == (tuple(compute), tuple(stores)))
        await self._do(f"assign:{task.hex()}", "TaskScheduler.assign", (task, list(compute), list(stores)), done=done)

    async def publish_key(self, task: TaskId, *, key: Address, statements: Sequence[bytes], signatures: bytes, descriptors: bytes) -> None:
        done = self._task_is(task, lambda found: found.published_key == key)
        arguments = (task, key, list(statements), signatures, descriptors)
        await self._do(f"publishKey:{task.hex()}", "TaskScheduler.publishKey", arguments, done=done)

    async def report(self, task: TaskId, index: int) -> None:
        done = self._task_is(task, lambda found: bool(found.reported >> index & 1))
        await self._do(f"report:{task.hex()}:{index}", "TaskScheduler.report", (task, index), done=done)

    async def complete(self, task: TaskId, *, index: int, result_hash: bytes, signature: bytes) -> None:
        done = self._task_is(task, lambda found: found.result_hash == result_hash)
        await self._do(f"complete:{task.hex()}", "TaskScheduler.complete", (task, index, result_hash, signature), done=done)

    async def cancel(self, task: TaskId) -> None:
        done = self._task_is(task, lambda found: found.stopping or found.phase is TaskPhase.CLOSED)
        await self._do(f"cancel:{task.hex()}", "TaskScheduler.cancel", (task,), done=done)

    async def refund(self, task: TaskId) -> None:
        done = self._task_is(task, lambda found: found.phase is TaskPhase.CLOSED)
        await self._do(f"refund:{task.hex()}", "TaskScheduler.refund", (task,), done=done)

    async def deposit_stake(self, amount: int) -> None:
        # The contract cannot tell two deposits apart, so a caller who asks again while one is under way is told to look at the stake first.
        async with self._sender.intent("depositStake"):
            earlier = await self._sender.adopt("depositStake")
            if earlier is not None and earlier[0].value != amount:
                raise Transient("an earlier deposit of another amount has just been settled: look at the stake again", retry_after=0)
            if earlier is None:
                await self._sender.send(self._call("depositStake", "TaskScheduler.depositStake", (), amount))

    # Channels

    async def open_channel(self, a: Address, b: Address, terms: ChannelTerms, *, deposit: int, peer_deposit: int) -> None:
        own_is_a = self.address == a
        deposits = (deposit, peer_deposit) if own_is_a else (peer_deposit, deposit)
        alive = (ChannelPhase.OPENING, ChannelPhase.OPEN)
        done = self._channel_is(a, b, terms, lambda found: found.phase in alive and (found.balance_a, found.balance_b) == deposits)
        await self._deposit("open", a, b, terms, (deposit, peer_deposit), deposit, done)

    async def join_channel(self, a: Address, b: Address, terms: ChannelTerms, *, epoch: int, deposit: int) -> None:
        joined = (ChannelPhase.OPEN, ChannelPhase.DISPUTED)
        done = self._channel_is(a, b, terms, lambda found: found.epoch == epoch and found.phase in joined)
        await self._deposit("join", a, b, terms, (epoch,), deposit, done)

    async def cancel_channel(self, a: Address, b: Address, terms: ChannelTerms) -> None:
        await self._channel("cancel", a, b, terms, (), done=self._channel_is(a, b, terms, _is_closed))

    async def close_channel(
        self, a: Address, b: Address, terms: ChannelTerms, state: ChannelState, signature_a: bytes, signature_b: bytes
    ) -> None:
        done = self._channel_is(a, b, terms, lambda found: _is_closed(found) and found.epoch >= state.epoch)
        signatures = self._without_own(a, b, signature_a, signature_b)
        await self._channel("close", a, b, terms, (_pack(state), *signatures), done=done)

    async def challenge(self, a: Address, b: Address, terms: ChannelTerms, state: ChannelState, peer_signature: bytes) -> None:
        done = self._channel_is(a, b, terms, lambda found: _disputed_or_over(found, state))
        await self._channel("challenge", a, b, terms, (_pack(state), peer_signature), done=done)

    async def respond(
        self, a: Address, b: Address, terms: ChannelTerms, state: ChannelState, signature_a: bytes, signature_b: bytes
    ) -> None:
        done = self._channel_is(a, b, terms, lambda found: _disputed_or_over(found, state))
        signatures = self._without_own(a, b, signature_a, signature_b)
        await self._channel("respond", a, b, terms, (_pack(state), *signatures), done=done)

    async def finalize(self, a: Address, b: Address, terms: ChannelTerms) -> None:
        await self._channel("finalize", a, b, terms, (), done=self._channel_is(a, b, terms, _is_closed))

    # Tokens

    async def _deposit(
        self, name: str, a: Address, b: Address, terms: ChannelTerms, arguments: Sequence[Any], amount: int, done: Done
    ) -> None:
        if terms.asset == NATIVE:
            await self._channel(name, a, b, terms, arguments, value=amount, done=done)
            return
        await self._allow(terms.asset, "ChannelManager")
        try:
            await self._channel(name, a, b, terms, arguments, done=done)
        except ChainRejected as error:
            if await self._reader.balance(self.address, terms.asset) < amount:
                raise InsufficientFunds(f"our account has less than the deposit of {amount} of the token {terms.asset}") from error
            raise

    async def _allow(self, token: Address, contract: str) -> None:
        """Let a contract of ours take a token from our account, for good: it takes from who calls it and from nobody else."""
        spender = self._addresses.of(contract)

        async def done(block: Header) -> bool:
            return await self._reader.allowance_at(block, token, self.address, spender) > _UNLIMITED // 2

        await self._do(f"approve:{token}:{contract}", "ERC20.approve", (spender, _UNLIMITED), to=token, done=done)

    # How

    async def _do(
        self,
        intent: str,
        function: str,
        arguments: Sequence[Any],
        *,
        value: int = 0,
        to: Address | None = None,
        done: Done | None = None,
    ) -> Receipt | None:
        call = self._call(intent, function, arguments, value, to)
        async with self._sender.intent(intent):
            if receipt := await self._adopt(call):
                return receipt
            if done is not None and await done(self._heads.confirmed):
                return None
            try:
                return await self._sender.send(call)
            except ChainRejected:
                # Somebody else may have done it, in a block that is not confirmed yet.
                if done is None or not await done(self._heads.latest):
                    raise
                raise Transient(f"{call.purpose} is done and not confirmed yet", retry_after=2) from None

    async def _adopt(self, call: Call) -> Receipt | None:
        try:
            earlier = await self._sender.adopt(call.intent)
        except ChainRejected:
            log.info("chain.earlier_attempt_rejected", extra={"purpose": call.purpose})
            return None  # simulation tells why this one would be too
        if earlier is None or not earlier[0].same_call(call.to, call.value, call.data):
            return None
        return earlier[1]

    def _call(self, intent: str, function: str, arguments: Sequence[Any], value: int, to: Address | None = None) -> Call:
        contract, _, name = function.partition(".")
        data = contracts.contract(contract).functions[name].encode(*arguments)
        return Call(intent=intent, purpose=function, to=to or self._addresses.of(contract), data="0x" + data.hex(), value=value)

    async def _channel(
        self, name: str, a: Address, b: Address, terms: ChannelTerms, arguments: Sequence[Any], *, value: int = 0, done: Done
    ) -> None:
        packed = (a, b, pack_terms(terms))
        intent = f"{name}:{channel_id(a, b, terms).hex()}"
        await self._do(intent, f"ChannelManager.{name}", (packed, *arguments), value=value, done=done)

    def _without_own(self, a: Address, b: Address, signature_a: bytes, signature_b: bytes) -> tuple[bytes, bytes]:
        """Who sends the transaction has signed it: leaving its signature out saves a thousand gas."""
        return b"" if self.address == a else signature_a, b"" if self.address == b else signature_b

    def _task_is(self, task: TaskId, wanted: Callable[[ChainTask], bool]) -> Done:
        async def done(block: Header) -> bool:
            return wanted(await self._reader.task_at(block, task))

        return done

    def _channel_is(self, a: Address, b: Address, terms: ChannelTerms, wanted: Callable[[ChainChannel], bool]) -> Done:
        channel: ChannelId = channel_id(a, b, terms)

        async def done(block: Header) -> bool:
            return wanted(await self._reader.channel_at(block, channel))

        return done


def _pack(state: ChannelState) -> tuple[int, int, int, bytes]:
    return state.version, state.balance_a, state.balance_b, state.data_hash


def _words(proof: bytes) -> tuple[bytes, bytes]:
    """Split an Ed25519 signature as the registry takes it. Raises InvalidInput("InvalidProof")."""
    if len(proof) != 64:
        raise InvalidInput("InvalidProof", "a proof of possession is an Ed25519 signature of 64 bytes")
    return proof[:32], proof[32:]


def _is_closed(found: ChainChannel) -> bool:
    return found.phase is ChannelPhase.CLOSED


def _disputed_or_over(found: ChainChannel, state: ChannelState) -> bool:
    if found.epoch != state.epoch:
        return found.epoch > state.epoch
    return _is_closed(found) or (found.phase is ChannelPhase.DISPUTED and found.sequence >= state.sequence)
