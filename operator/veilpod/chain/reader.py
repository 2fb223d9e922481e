"""What anybody can read from the chain, as values of one confirmed block each (ports.ChainReader).

A task is its view in TaskScheduler joined with what only its events carry; a node is its view joined with its proof of
possession. Contents of events in confirmed blocks are cached, and forgotten whenever a confirmed block was reorganised. Writes nothing.
"""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Sequence
from typing import Any

from veilpod.chain import contracts, logs
from veilpod.chain.assignments import Assignments
from veilpod.chain.follower import Follower
from veilpod.chain.heads import Header, Heads
from veilpod.chain.rpc import Rpc, RpcError
from veilpod.core.canonical import keccak256
from veilpod.core.entities import (
    NATIVE,
    ChainChannel,
    ChainEvent,
    ChainTask,
    ChannelPhase,
    Node,
    NodeStatus,
    Resource,
    Role,
    TaskPhase,
    Terms,
)
from veilpod.core.ids import Address, ChannelId, NodeId, ResourceId, TaskId
from veilpod.errors import ChainUnavailable, InvalidInput

_PAGE = 50  # nodes a call
_DAY = 86_400
_SHORT_CACHE = 512


class Reader:
    """ports.ChainReader over one node."""

    def __init__(self, rpc: Rpc, heads: Heads, addresses: contracts.Addresses, follower: Follower) -> None:
        self._rpc = rpc
        self._heads = heads
        self._addresses = addresses
        self._follower = follower
        self._assignments = Assignments(rpc, heads, addresses)
        self._scanning = asyncio.Lock()
        self._reorgs = heads.reorgs
        self._directory: tuple[str, tuple[Node, ...]] = ("", ())
        self._proofs: dict[tuple[NodeId, int], tuple[bytes, bytes]] = {}  # (node, epoch) -> (onion key, proof)
        self._tasks: dict[TaskId, tuple[str, ChainTask]] = {}
        # task -> (spec, KeyPublished, whether nothing can come any more)
        self._events: dict[TaskId, tuple[bytes, logs.Log | None, bool]] = {}

    async def now(self) -> int:
        return self._heads.latest.timestamp

    async def node(self, node: NodeId) -> Node:
        return await self.node_at(self._block(), node)

    async def node_at(self, block: Header, node: NodeId) -> Node:
        """A node as one block has it. For `writer`, which asks the newest block too."""
        (view,) = await self._view(block, "NodeRegistry", "node", node)
        (found,) = await self._with_proofs(block, [view])
        return found

    async def directory(self, roles: Role) -> Sequence[Node]:
        block = self._block()
        async with self._scanning:
            if self._directory[0] != block.hash:
                (count,) = await self._view(block, "NodeRegistry", "nodeCount")
                views: list[Any] = []
                for first in range(1, count + 1, _PAGE):
                    (page,) = await self._view(block, "NodeRegistry", "page", int(Role.ANY), first, _PAGE)
                    views += page
                self._directory = (block.hash, await self._with_proofs(block, views))
        return tuple(node for node in self._directory[1] if node.roles & roles)

    async def resource(self, resource: ResourceId) -> Resource | None:
        return await self.resource_at(self._block(), resource)

    async def resources_named(self, name: str) -> Sequence[Resource]:
        block = self._block()
        (ids,) = await self._view(block, "NodeRegistry", "resourcesNamed", name)
        found = [await self.resource_at(block, ResourceId(resource)) for resource in ids]
        return tuple(resource for resource in found if resource is not None)

    async def task(self, task: TaskId) -> ChainTask:
        return await self.task_at(self._block(), task)

    async def task_at(self, block: Header, task: TaskId) -> ChainTask:
        """A task as one block has it. For `writer`, which asks the newest block too."""
        cached = self._tasks.get(task)
        if cached is not None and cached[0] == block.hash:
            return cached[1]
        (view,) = await self._view(block, "TaskScheduler", "task", task)
        found = await self._join(block, task, view)
        if len(self._tasks) >= _SHORT_CACHE:
            self._tasks.clear()
        self._tasks[task] = (block.hash, found)
        return found

    async def tasks_of(self, node: NodeId) -> Sequence[TaskId]:
        block = self._block()
        async with self._scanning:
            return await self._assignments.of(node, block, ended_after=self._heads.latest.timestamp - _DAY)

    async def channel(self, channel: ChannelId) -> ChainChannel:
        return await self.channel_at(self._block(), channel)

    async def channel_at(self, block: Header, channel: ChannelId) -> ChainChannel:
        """A channel as one block has it. For `writer`, which asks the newest block too."""
        (view,) = await self._view(block, "ChannelManager", "channel", channel)
        phase, epoch, sequence, deadline, balance_a, balance_b = view
        return ChainChannel(
            id=channel,
            phase=ChannelPhase(phase),
            epoch=epoch,
            sequence=sequence,
            deadline=deadline,
            balance_a=balance_a,
            balance_b=balance_b,
        )

    async def stake_of(self, owner: Address) -> tuple[int, int]:
        free, locked = await self._view(self._block(), "TaskScheduler", "stakeOf", owner)
        return free, locked

    async def balance(self, owner: Address, asset: Address = NATIVE) -> int:
        if asset == NATIVE:
            return int(await self._at(self._block(), "eth_getBalance", owner), 16)
        return await self._token(self._block(), asset, "balanceOf", owner)

    async def decimals(self, token: Address) -> int:
        """How many digits after the point a token has. Raises InvalidInput("NotAToken")."""
        return await self._token(self._block(), token, "decimals")

    async def allowance_at(self, block: Header, token: Address, owner: Address, spender: Address) -> int:
        """What a spender may still take. For `writer`, which asks the newest block too."""
        return await self._token(block, token, "allowance", owner, spender)

    def events(self) -> AsyncIterator[ChainEvent]:
        return self._follower.events()

    def _block(self) -> Header:
        if self._reorgs != self._heads.reorgs:
            self._reorgs = self._heads.reorgs
            self._events.clear()
            self._proofs.clear()
        return self._heads.confirmed

    async def _view(self, block: Header, contract: str, function: str, *args: Any) -> tuple[Any, ...]:
        target = contracts.contract(contract).functions[function]
        call = {"to": self._addresses.of(contract), "data": "0x" + target.encode(*args).hex()}
        return target.decode(bytes.fromhex((await self._at(block, "eth_call", call))[2:]))

    async def _token(self, block: Header, token: Address, function: str, *args: Any) -> int:
        target = contracts.contract("ERC20").functions[function]
        answer = bytes.fromhex((await self._at(block, "eth_call", {"to": token, "data": "0x" + target.encode(*args).hex()}))[2:])
        if len(answer) < 32:  # what has no code answers nothing
            raise InvalidInput("NotAToken", f"{token} is no ERC-20 token on this chain")
        return int(target.decode(answer)[0])

    async def _at(self, block: Header, method: str, *params: Any) -> Any:
        try:
            if block.number <= self._heads.confirmed.number:
                return await self._rpc.agreed(method, *params, block.tag)
            return await self._rpc.call(method, *params, block.tag)
        except RpcError as error:
            # Views of ours do not revert: the block is gone or the node does not keep its state.
            raise ChainUnavailable(f"the node refused {error}") from error

    async def _with_proofs(self, block: Header, views: Sequence[Any]) -> tuple[Node, ...]:
        nodes = [_node(view) for view in views]
        missing = [node.id for node in nodes if node.id and self._proofs.get((node.id, node.key_epoch), (b"",))[0] != node.onion_key]
        for start in range(0, len(missing), _PAGE):
            names = [logs.topic("NodeRegistry", name) for name in ("NodeRegistered", "NodeKey")]
            topics = [names, [logs.indexed(node) for node in missing[start : start + _PAGE]]]
            for entry in await self._logs(block, "NodeRegistry", topics):
                key = NodeId(entry.args["id"]), int(entry.args.get("keyEpoch", 1))  # registering is the first epoch
                self._proofs[key] = entry.args["onionKey"], b"".join(entry.args["proof"])
        return tuple(_proved(node, *self._proofs.get((node.id, node.key_epoch), (b"", b""))) for node in nodes)

    async def resource_at(self, block: Header, resource: ResourceId) -> Resource | None:
        """A resource as one block has it. For `writer`, which asks the newest block too."""
        (view,) = await self._view(block, "NodeRegistry", "resource", resource)
        owner, node, revoked, digest, size, name = view
        if not int(owner, 16):
            return None
        return Resource(
            id=resource, owner=contracts.address(owner), node=NodeId(node), revoked=revoked, digest=digest, size=size, name=_text(name)
        )

    async def _join(self, block: Header, task: TaskId, view: Any) -> ChainTask:
        requester, asset, phase, stopping, reported, escrow, terms, key_or_result, compute, stores = view
        phase = TaskPhase(phase)
        spec, published = await self._events_of(block, task, phase)
        if spec is None:
            raise ChainUnavailable("the node does not have the event of a task that it has")
        if phase in (TaskPhase.RUNNING, TaskPhase.COMPLETED) and published is None:
            raise ChainUnavailable("the node does not have the event of a key that it has")
        key = contracts.address("0x" + key_or_result[-20:].hex()) if phase is TaskPhase.RUNNING else None
        return ChainTask(
            id=task,
            phase=phase,
            requester=contracts.address(requester),
            stopping=stopping,
            reported=reported,
            escrow=escrow,
            terms=_terms(terms),
            spec_hash=bytes(32) if phase is TaskPhase.NONE else keccak256(spec),
            key=key,
            result_hash=key_or_result if phase is TaskPhase.COMPLETED else None,
            compute=tuple(NodeId(node) for node in compute),
            stores=tuple(NodeId(node) for node in stores),
            spec=spec,
            statements=tuple(published.args["statements"]) if published else (),
            descriptors=published.args["descriptors"] if published else b"",
            published_key=contracts.address(published.args["key"]) if published else None,
            asset=contracts.address(asset),
        )

    async def _events_of(self, block: Header, task: TaskId, phase: TaskPhase) -> tuple[bytes | None, logs.Log | None]:
        """A task's specification (None: no such event) and its KeyPublished. What can still be published is looked for again."""
        if phase is TaskPhase.NONE:
            return b"", None
        known = self._events.get(task)
        if known is not None and (known[1] is not None or phase in (TaskPhase.REQUESTED, TaskPhase.ASSIGNED) or known[2]):
            return known[0], known[1]
        topics = [[logs.topic("TaskScheduler", name) for name in ("Requested", "KeyPublished")], logs.indexed(task)]
        published = None
        first = min(self._addresses.since, block.number)
        async for entry in logs.read_logs(
            self._rpc, self._addresses, ["TaskScheduler"], topics, first=first, last=block.number, newest_first=True
        ):
            if entry.name == "Requested":
                # Another block may yet take this one's place, with another specification for the same task.
                if block.number <= self._heads.confirmed.number:
                    if len(self._events) >= _SHORT_CACHE:
                        self._events.clear()
                    self._events[task] = (entry.args["spec"], published, phase is TaskPhase.CLOSED)
                return entry.args["spec"], published
            published = entry
        return None, published

    async def _logs(self, block: Header, contract: str, topics: logs.Topics) -> list[logs.Log]:
        first = min(self._addresses.since, block.number)
        return await logs.all_logs(self._rpc, self._addresses, [contract], topics, first=first, last=block.number)


def _node(view: Any) -> Node:
    number, owner, roles, status, key_epoch, updated_at, capacity, identity_key, onion_key, endpoint = view
    return Node(
        id=NodeId(number),
        owner=contracts.address(owner),
        roles=Role(roles),
        status=NodeStatus(status),
        key_epoch=key_epoch,
        updated_at=updated_at,
        capacity=capacity,
        identity_key=identity_key,
        onion_key=onion_key,
        endpoint=_text(endpoint),
        proof=b"",
    )


def _proved(node: Node, onion_key: bytes, proof: bytes) -> Node:
    return dataclasses.replace(node, proof=proof if onion_key == node.onion_key else b"")


def _terms(view: Any) -> Terms:
    servers, per_server, stake, schedule_by, key_by, complete_by, report_by = view
    return Terms(
        servers=servers,
        per_server=per_server,
        stake=stake,
        schedule_by=schedule_by,
        key_by=key_by,
        complete_by=complete_by,
        report_by=report_by,
    )


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")
