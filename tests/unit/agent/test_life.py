"""A task from configuration to zeroisation: three agents, real relays, stores, mailbox and launchers, all on loopback."""

import asyncio
import contextlib
import pathlib
import socket
from collections.abc import AsyncIterator

import pytest
from tests.support import netguards, sandbox_net, stores
from tests.support.sandbox_net import DOMAIN, FIRST_STORE, REQUESTER, TASK, Sandbox, deliver, sealed_object, serve_object, star

from veilpod.core.agent_messages import Published, parse_sealed_result, parse_zeroised, verify_zeroised
from veilpod.core.canonical import from_hex
from veilpod.core.keys import checksum_address
from veilpod.core.meeting import descriptors_document, verify_result
from veilpod.core.result import open_result, result_hash, unpack
from veilpod.core.statement import parse_statement
from veilpod.errors import Refused
from veilpod.net.onion import OnionProxy

HUB = """
import pathlib, socket, sys
address, port, _, out, _ = sys.argv[1:]
server = socket.create_server((address, int(port)))
total = 0
for _ in range({sites}):
    connection, _ = server.accept()
    while data := connection.recv(65536):
        total += len(data)
    connection.sendall(b"thanks")
    connection.close()
pathlib.Path(out, "model.txt").write_text(str(total))
print("the hub saw", total)
"""

SITE = """
import pathlib, socket, sys, time
address, port, inputs, out, _ = sys.argv[1:]
data = pathlib.Path(inputs, "train", "data.csv").read_bytes()
connection = socket.create_connection((address, int(port)))
connection.sendall(data)
connection.shutdown(socket.SHUT_WR)
assert connection.recv(100) == b"thanks"
"""


def free_port() -> int:
    with socket.create_server(("127.0.1.9", 0)) as probe:
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return sandbox_net.compile_launcher(tmp_path_factory.mktemp("launcher") / "launch")


class World:
    """Everything that stands before a task begins."""

    def __init__(self) -> None:
        self.stack = contextlib.AsyncExitStack()
        self.sandboxes: list[Sandbox] = []
        self.stores: list[stores.Linked] = []
        self.fence: netguards.Fence
        self.mailbox: stores.Linked
        self.published: Published

    async def meet(self) -> None:
        """Configure, offer, accept, publish: what operators and the chain do."""
        owners = [sandbox.chain_key for sandbox in self.sandboxes]
        await self.mailbox.link.announce_task(sandbox_net.terms(self.sandboxes))
        port = self.mailbox.service.listener.port
        for sandbox in self.sandboxes:
            await sandbox.link.call("configure", **sandbox.configuration(owners, self.mailbox.directory, port).document())
        for sandbox in self.sandboxes:
            await sandbox.until("ready")
            await sandbox.make_offer()
        for sandbox in self.sandboxes:
            await sandbox.accept()
        for sandbox in self.sandboxes:
            await sandbox.until("accepted")
        offers = await self.sandboxes[0].until("offers")
        acceptances = await self.mailbox.link.acceptances(TASK)
        self.published = Published(
            key=checksum_address(from_hex(offers["key"])),
            statements=tuple(from_hex(digest) for digest in offers["statements"]),
            descriptors=descriptors_document(acceptances),
        )
        for sandbox in self.sandboxes:
            await sandbox.link.call("published", **self.published.document())


@pytest.fixture
async def world(tmp_path: pathlib.Path) -> AsyncIterator[World]:
    built = World()
    async with built.stack as stack:
        built.fence = stack.enter_context(netguards.fence())
        relays, directory = await stack.enter_async_context(sandbox_net.relays())

        def proxy(*, directory, hops, in_cluster):  # type: ignore[no-untyped-def]
            return OnionProxy(directory=directory, hops=hops, in_cluster=in_cluster)

        for name in ("mailbox", "north", "south"):
            service = await stack.enter_async_context(stores.running(tmp_path / name, onion=proxy))
            operator = await stack.enter_async_context(stores.linked(service, directory))
            if name == "mailbox":
                built.mailbox = operator
                for relay in relays:
                    relay.policy.replace([f"127.0.0.1:{service.listener.port}"])
            else:
                built.stores.append(operator)
        yield built


async def start(world: World, tmp_path: pathlib.Path, launcher: pathlib.Path, spec: sandbox_net.TaskSpec) -> None:
    for index in range(len(spec.servers)):
        sandbox = Sandbox(index, tmp_path, launcher=launcher, spec=spec, guard=world.fence)
        await world.stack.enter_async_context(sandbox.running())
        world.sandboxes.append(sandbox)


async def test_a_task_of_a_hub_and_two_sites_from_birth_to_zeroisation(
    world: World, tmp_path: pathlib.Path, launcher: pathlib.Path
) -> None:
    objects = [sealed_object("north", b"n" * 9_500_000), sealed_object("south", b"s" * 70_000)]
    spec = star(objects, port=free_port())
    await start(world, tmp_path, launcher, spec)
    for operator, item in zip(world.stores, objects, strict=True):
        await serve_object(operator.service, item)
    hub, *sites = world.sandboxes

    # Meet, receive.
    await world.meet()
    async with asyncio.TaskGroup() as group:
        for number, (operator, item) in enumerate(zip(world.stores, objects, strict=True)):
            group.create_task(deliver(operator, item, node=FIRST_STORE + number, index=number + 1, published=world.published))
    for site, item in zip(sites, objects, strict=True):
        await site.until("inputs", count=2)
        assert (site.root / "in" / "train" / "data.csv").read_bytes() == item.plain

    # Compute, with the operators talking through their sandboxes.
    await hub.start_program(HUB.format(sites=2))
    for site in sites:
        await site.start_program(SITE)
    await sites[0].until("started")
    await sites[0].link.call("channel", peer=0, payload={"propose": 1})
    assert await hub.until("channel") == {"peer": 1, "payload": {"propose": 1}}
    await hub.link.call("channel", peer=2, payload={"flush": {"sent": 0}})
    assert await sites[1].until("channel") == {"peer": 0, "payload": {"flush": {"sent": 0}}}
    for sandbox in world.sandboxes:
        assert await sandbox.until("exited") == {"how": "Exited", "code": 0}

    # Every byte was attested and paid, on both sides alike.
    flushed = [await sandbox.until("flushed") for sandbox in world.sandboxes]
    assert flushed[0] == {"links": [{"peer": 1, "sent": 6, "received": 9_500_000}, {"peer": 2, "sent": 6, "received": 70_000}]}
    assert flushed[1] == {"links": [{"peer": 0, "sent": 9_500_000, "received": 6}]}
    for receipt in sites[0].events["receipt"]:
        assert {"peer": 1, "receipt": receipt["receipt"]} in hub.events["receipt"]

    # The result is in the mailbox, signed by the task key, for the requester alone.
    info = parse_sealed_result(await hub.until("result"))
    await hub.until("delivered")
    stored = await world.mailbox.link.result_info(TASK)
    assert stored is not None
    assert stored.digest == info.digest
    sealed = b"".join([piece async for piece in world.mailbox.service.mailbox.result_pieces(TASK)])
    assert result_hash(TASK, sealed) == info.result_hash
    verify_result(domain=DOMAIN, task=TASK, result_hash=info.result_hash, signature=info.signature, key=world.published.key)
    result = open_result(sealed, REQUESTER, task=TASK)
    assert [(entry.path, entry.data) for entry in unpack(result.archive)] == [("model.txt", b"9570000")]
    assert result.log.stdout == b"the hub saw 9570000\n"

    # Released together, then wiped, with the sandbox key's last signature.
    await asyncio.gather(*(sandbox.link.call("release") for sandbox in world.sandboxes))
    for sandbox in world.sandboxes:
        statement = parse_statement((await sandbox.link.call("statement"))["statement"])
        zeroised = parse_zeroised(await sandbox.link.call("zeroise"))
        verify_zeroised(zeroised, statement.signing_key)
        assert parse_zeroised(await sandbox.link.call("zeroise")) == zeroised
        for volume in ("in", "out", "scratch"):
            assert list((sandbox.root / volume).iterdir()) == []
        with pytest.raises(Refused) as refused:
            await sandbox.link.call("statement")
        assert refused.value.reason == "Zeroised"
    notes = {(note.index, note.event) for note in await world.mailbox.link.notes(TASK)}
    assert {(0, "Computed"), (0, "ResultDelivered"), (0, "FinalStateSigned"), (1, "InputsVerified"), (2, "Computed")} <= notes
    assert not any("failed" in sandbox.events for sandbox in world.sandboxes)
