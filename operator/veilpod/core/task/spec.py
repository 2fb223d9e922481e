"""The specification of a task as it stands on chain: canonical JSON whose hash every party agrees to (docs/protocol/task.md).

Made by the requester's operator from a manifest, read by every computing server, agent and data sender. A server that cannot parse or
honour it does not accept it, so reading is exact: every field, no other, in canonical form. No I/O. Paper step 1.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from veilpod.core.canonical import keccak256, parse_canonical
from veilpod.core.channel.state import channel_id, order
from veilpod.core.entities import ChannelTerms, Terms
from veilpod.core.fields import Fields, address_bytes
from veilpod.core.ids import Address, ChannelId, NodeId, ResourceId, ServerIndex, TaskId
from veilpod.core.onion.legs import MAX_RATE, MIN_RATE
from veilpod.core.task.spec_values import (
    Deadlines,
    Input,
    Payment,
    Program,
    Quorum,
    ResultSpec,
    Server,
    TaskRole,
    TaskSpec,
    Topology,
)
from veilpod.errors import ProtocolViolation, Refused

__all__ = [
    "Deadlines",
    "Input",
    "Payment",
    "Program",
    "Quorum",
    "ResultSpec",
    "Server",
    "TaskRole",
    "TaskSpec",
    "Topology",
    "assignment_name",
    "channel_terms",
    "channels_of",
    "check_ports",
    "check_spec",
    "decode_spec",
    "make_terms",
    "needed",
    "request_salt",
    "spec_hash",
    "task_id",
]

MAX_SERVERS = 16
MAX_LANES = 1 << 32
DEADLINE_SPACING = 60  # seconds
AGENT_PORTS = frozenset({7443, 7444})
TOPOLOGIES = frozenset({"None", "Star", "Mesh"})
RELAY_POLICIES = frozenset({"Any", "InCluster"})
CHALLENGE_SECONDS = 3600
PENALTY_BPS = 1000  # of what a channel holds; who never signs past a lost message cannot be fined (docs/protocol/channels.md)
_MAX_WEI = (1 << 96) - 1


def spec_hash(spec: bytes) -> bytes:
    """What TaskScheduler keeps of a specification. 32 bytes."""
    return keccak256(spec)


def decode_spec(data: bytes) -> TaskSpec:
    """Read a specification from chain. Raises ProtocolViolation for anything that `encode` would not have written."""
    top = Fields(parse_canonical(data), what="spec", party="requester")
    if top.integer("version") != 1:
        raise top.violation("is of another version")
    result, payment, onion = top.fields("result"), top.fields("payment"), top.fields("onion")
    spec = TaskSpec(
        program=_program(top.fields("program")),
        roles=tuple(_role(item) for item in top.items("roles", maximum=MAX_SERVERS)),
        topology=_topology(top.fields("topology")),
        inputs=tuple(_input(item) for item in top.items("inputs", maximum=256)),
        result=ResultSpec(
            sender=ServerIndex(result.integer("from", maximum=MAX_SERVERS - 1)),
            recipient=result.text("recipient", maximum=4096),
            max_size=result.integer("maxSize", minimum=1),
            mailbox=NodeId(result.integer("mailbox", minimum=1, maximum=(1 << 32) - 1)),
        ),
        payment=Payment(
            per_server=_wei(payment, "perServer"),
            per_transfer_mib=_wei(payment, "perTransferMiB"),
            channel_deposit=_wei(payment, "channelDeposit"),
            lane=payment.integer("lane", maximum=MAX_LANES - 1),
            asset=payment.address("asset"),
        ),
        deadlines=_deadlines(top.fields("deadlines")),
        quorum=_quorum(top.fields("quorum")),
        hops=onion.integer("hops", minimum=1, maximum=8),
        relays=onion.choice("relays", RELAY_POLICIES),
        constant_rate=onion.integer("constantRate", maximum=MAX_RATE),
        sandbox_class=top.text("sandboxClass"),
    )
    for fields in (result, payment, onion, top):
        fields.done()
    check_spec(spec)
    return spec


def check_spec(spec: TaskSpec) -> None:
    """Check what holds between fields. Raises ProtocolViolation("BadSpec")."""
    if spec.constant_rate and spec.constant_rate < MIN_RATE:
        raise _bad("a constant rate is 0, or at least 256 KiB a second: a message would wait too long for its tick")
    names = [role.name for role in spec.roles]
    count = len(spec.servers)
    if not 1 <= count <= MAX_SERVERS or len(set(names)) != len(names):
        raise _bad(f"a task has 1 to {MAX_SERVERS} servers in roles of different names")
    if spec.topology.type == "Star" and [role.replicas for role in spec.roles if role.name == spec.topology.hub] != [1]:
        raise _bad("the hub of a Star is a role with one replica")
    if spec.result.sender >= count or any(item.to >= count for item in spec.inputs):
        raise _bad("a server index is out of range")
    if len({(item.to, item.path) for item in spec.inputs}) != len(spec.inputs):
        raise _bad("two inputs have the same path in the same server")
    if spec.quorum.role and spec.quorum.role not in names:
        raise _bad("the quorum names no role")
    times = spec.deadlines
    # TaskScheduler refuses deadlines closer than this: a requester could assign a server and slash it a second later.
    if min(times.inputs, times.compute, times.total - times.schedule - times.inputs - times.compute) < DEADLINE_SPACING:
        raise _bad(f"inputs and compute are at least {DEADLINE_SPACING} s, and total is as much above the sum of the others")


def check_ports(spec: TaskSpec, taken: Iterable[int]) -> None:
    """Check that the program gets no port on which its agent meets others. Raises Refused("PortTaken").

    A program may connect to the ports of its task, and the fence lets the pod out on the relays' one: with that it would need no agent.
    """
    if not set(taken).isdisjoint(spec.topology.ports):
        raise Refused("PortTaken", "topology.ports names the port of relays, or one of the agent's: choose another")


def make_terms(spec: TaskSpec, *, now: int, stake: int) -> Terms:
    """Turn deadlines into points in time (unix seconds), from the chain's `now`."""
    schedule_by = now + spec.deadlines.schedule
    key_by = schedule_by + spec.deadlines.inputs
    return Terms(
        servers=len(spec.servers),
        per_server=spec.payment.per_server,
        stake=stake,
        schedule_by=schedule_by,
        key_by=key_by,
        complete_by=key_by + spec.deadlines.compute,
        report_by=now + spec.deadlines.total,
    )


def channel_terms(requester: Address, payment: Payment) -> ChannelTerms:
    """The terms of every channel of a task: the asset it is paid in, an hour to answer a challenge, a tenth at stake in one.

    The lane on chain is the low 48 bits of keccak256(requester || lane:32): the requester's next task between the same servers opens
    the same channels again, and no other requester's task is in its way.
    """
    lane = int.from_bytes(keccak256(address_bytes(requester) + payment.lane.to_bytes(4, "big"))[-6:], "big")
    return ChannelTerms(asset=payment.asset, lane=lane, challenge_period=CHALLENGE_SECONDS, penalty_bps=PENALTY_BPS)


def channels_of(requester: Address, spec: TaskSpec, owners: Sequence[Address]) -> tuple[ChannelId, ...]:
    """The ids of a task's channels, one for each link. `owners`: the servers' accounts, by index."""
    terms = channel_terms(requester, spec.payment)
    return tuple(channel_id(*order(owners[one], owners[two]), terms) for one, two in spec.links)


def task_id(requester: Address, uid: str) -> TaskId:
    """The id that `request` gives a ComputeTask: keccak256(abi.encode(requester, salt)), salt = keccak256(UID)."""
    return TaskId(keccak256(address_bytes(requester).rjust(32, b"\0") + request_salt(uid)))


def request_salt(uid: str) -> bytes:
    """The salt of a ComputeTask: one object, one task, however often it is requested. 32 bytes."""
    return keccak256(uid.encode())


def assignment_name(task: TaskId, index: int) -> str:
    """The deterministic name of a TaskAssignment."""
    return f"ta-{task.hex()[:16]}-{index}"


def needed(spec: TaskSpec, failed: Sequence[int]) -> bool:
    """Whether the task cannot go on without these servers: the result's, the hub's, or the quorum is lost."""
    servers = spec.servers
    for index in failed:
        role = servers[index].role.name
        if index == spec.result.sender or role in ("", spec.topology.hub) or role != spec.quorum.role:
            return True
    left = [server for server in servers if server.role.name == spec.quorum.role and server.index not in failed]
    return bool(failed) and len(left) < spec.quorum.min


def _program(fields: Fields) -> Program:
    env = Fields(fields.take("env"), what="spec.program.env", party="requester")
    names = sorted(env.names())
    program = Program(
        image=fields.text("image", maximum=1024),
        command=_strings(fields, "command"),
        env=tuple((name, env.text(name, minimum=0, maximum=32768)) for name in names),
        cpu=fields.text("cpu", maximum=16),
        memory=fields.integer("memory", minimum=1),
    )
    fields.done()
    if "@sha256:" not in program.image or not program.command:
        raise _bad("the program is an image by digest with a command")
    return program


def _role(value: Any) -> TaskRole:
    fields = Fields(value, what="spec.roles", party="requester")
    role = TaskRole(
        name=fields.text("name", maximum=63),
        replicas=fields.integer("replicas", minimum=1, maximum=MAX_SERVERS),
        args=_strings(fields, "args"),
    )
    fields.done()
    return role


def _topology(fields: Fields) -> Topology:
    topology = Topology(
        type=fields.choice("type", TOPOLOGIES),
        hub=fields.text("hub", minimum=0, maximum=63),
        ports=tuple(fields.items("ports", maximum=16)),
    )
    fields.done()
    if not all(isinstance(port, int) and not isinstance(port, bool) and 1024 <= port < 1 << 16 for port in topology.ports):
        raise _bad("a port is a number from 1024 to 65535")
    if AGENT_PORTS & set(topology.ports):
        raise _bad("ports 7443 and 7444 are the agent's own")
    return topology


def _input(value: Any) -> Input:
    fields = Fields(value, what="spec.inputs", party="requester")
    item = Input(
        dataset=fields.text("dataset"),
        resource=ResourceId(fields.data("resource", 32)),
        node=NodeId(fields.integer("node", minimum=1, maximum=(1 << 32) - 1)),
        owner=fields.address("owner"),
        digest=fields.data("digest", 32),
        size=fields.integer("size"),
        to=ServerIndex(fields.integer("to", maximum=MAX_SERVERS - 1)),
        path=fields.text("path", maximum=1024),
    )
    fields.done()
    if any(part in ("", ".", "..") for part in item.path.split("/")) or "\0" in item.path:
        raise _bad("an input's path is relative and stays inside /veilpod/in")
    return item


def _deadlines(fields: Fields) -> Deadlines:
    names = ("schedule", "inputs", "compute", "total")
    deadlines = Deadlines(**{name: fields.integer(name, minimum=1, maximum=1 << 32) for name in names})
    fields.done()
    return deadlines


def _quorum(fields: Fields) -> Quorum:
    quorum = Quorum(role=fields.text("role", minimum=0, maximum=63), min=fields.integer("min", maximum=MAX_SERVERS))
    fields.done()
    return quorum


def _strings(fields: Fields, name: str) -> tuple[str, ...]:
    items = fields.items(name, maximum=256)
    if not all(isinstance(item, str) and len(item) <= 32768 for item in items):
        raise fields.violation(f"has a bad {name}")
    return tuple(items)


def _wei(fields: Fields, name: str) -> int:
    text = fields.text(name, maximum=30)
    if not (text.isascii() and text.isdecimal()) or (len(text) > 1 and text[0] == "0") or int(text) > _MAX_WEI:
        raise fields.violation(f"has a bad {name}: money is a decimal string of wei")
    return int(text)


def _bad(problem: str) -> ProtocolViolation:
    return ProtocolViolation("BadSpec", problem, party="requester")
