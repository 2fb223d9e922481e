"""A specification to build on."""

from veilpod.core.ids import NodeId, ResourceId, ServerIndex
from veilpod.core.keys import checksum_address
from veilpod.core.task.spec import Deadlines, Input, Payment, Program, Quorum, ResultSpec, TaskRole, TaskSpec, Topology


def star_spec(*, env: tuple[tuple[str, str], ...] = ()) -> TaskSpec:
    """A hub that aggregates and two sites that train."""
    return TaskSpec(
        program=Program(
            image="registry.example/fed@sha256:" + "a" * 64, command=("python3", "-m", "fed"), env=env, cpu="500m", memory=1 << 28
        ),
        roles=(TaskRole(name="hub", replicas=1, args=("aggregate",)), TaskRole(name="site", replicas=2, args=("train",))),
        topology=Topology(type="Star", hub="hub", ports=(9092,)),
        inputs=tuple(
            Input(
                dataset=name,
                resource=ResourceId(bytes([number]) * 32),
                node=NodeId(20 + number),
                owner=checksum_address(b"\x01" * 20),
                digest=bytes([number]) * 32,
                size=3 << 20,
                to=ServerIndex(number),
                path="train.csv",
            )
            for number, name in ((1, "north"), (2, "south"))
        ),
        result=ResultSpec(sender=ServerIndex(0), recipient="veil1", max_size=32 << 20, mailbox=NodeId(9)),
        payment=Payment(per_server=1, per_transfer_mib=1, channel_deposit=1),
        deadlines=Deadlines(schedule=60, inputs=60, compute=300, total=600),
        quorum=Quorum(role="site", min=2),
        hops=3,
        relays="Any",
        sandbox_class="standard",
    )
