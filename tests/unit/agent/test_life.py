"""A task from configuration to zeroisation: three agents, real relays, stores, mailbox and launchers, all on loopback."""

import asyncio

import pytest
from tests.support.sandbox_net import DOMAIN, HUB, REQUESTER, SITE, TASK, World, free_port, sealed_object, serve_object, star

from veilpod.core.agent_messages import parse_sealed_result, parse_zeroised, verify_zeroised
from veilpod.core.meeting import verify_result
from veilpod.core.result import open_result, result_hash, unpack
from veilpod.core.statement import parse_statement
from veilpod.errors import Refused


async def test_a_task_of_a_hub_and_two_sites_from_birth_to_zeroisation(world: World) -> None:
    objects = [sealed_object("north", b"n" * 9_500_000), sealed_object("south", b"s" * 70_000)]
    spec = star(objects, port=free_port())
    await world.start(spec)
    for operator, item in zip(world.stores, objects, strict=True):
        await serve_object(operator.service, item)
    hub, *sites = world.sandboxes

    # Meet, receive.
    await world.meet()
    await world.deliver(objects)
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

    # All hold one task key, which none of them was born with.
    own = [sandbox.service.life.identity for sandbox in world.sandboxes]
    assert {one.group.address for one in own if one} == {world.published.key}
    assert world.published.key not in {one.address for one in own if one}

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
    for one in own:
        assert one
        with pytest.raises(Refused) as forgotten:
            _ = one.group
        assert forgotten.value.reason == "Zeroised"
    notes = {(note.index, note.event) for note in await world.mailbox.link.notes(TASK)}
    assert {(0, "Computed"), (0, "ResultDelivered"), (0, "FinalStateSigned"), (1, "InputsVerified"), (2, "Computed")} <= notes
    assert not any("failed" in sandbox.events for sandbox in world.sandboxes)
