"""Which specifications a computing server's operator does not honour."""

import types
from typing import Any

from tests.unit.core.task.world import a_spec

from veilpod.control.compute_view import View
from veilpod.core.canonical import to_hex
from veilpod.core.entities import NATIVE
from veilpod.core.task import spec as specs
from veilpod.core.task.facts import Facts
from veilpod.core.task.snapshot import Refusal


class Classes:
    async def get(self, kind: object, name: str) -> dict[str, Any]:
        return {"metadata": {"name": name}, "spec": {"tier": "T0"}}


async def read(spec: specs.TaskSpec, *, relay_port: int) -> specs.TaskSpec | Refusal:
    config = types.SimpleNamespace(
        chain=types.SimpleNamespace(chain_id=1, contract="", contracts=None, channels=NATIVE),
        compute=types.SimpleNamespace(relay_port=relay_port, assets=()),
    )
    context: Any = types.SimpleNamespace(config=config, cluster=Classes())
    anything: Any = None
    raw = spec.encode()
    fields = {"taskId": to_hex(bytes(32)), "index": 0, "requester": NATIVE, "task": raw.decode(), "specHash": to_hex(specs.spec_hash(raw))}
    view = View(context, anything, anything)
    return (await view.assignment({"spec": fields, "metadata": {"name": "ta"}}, Facts())).spec


async def test_a_task_is_refused_whose_program_would_have_the_relays_port() -> None:
    spec = a_spec()
    assert await read(spec, relay_port=9001) == spec
    refused = await read(spec, relay_port=spec.topology.ports[0])
    assert isinstance(refused, Refusal)
    assert refused.reason == "PortTaken"
