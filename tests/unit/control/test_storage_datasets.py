"""A Dataset's way: applied, uploaded, registered, ready; and what its conditions say when something is missing."""

import dataclasses
import pathlib

import pytest
from tests.unit.control.storage_world import KEY, sealed, world

from veilpod.control.storage_datasets import FINALIZER
from veilpod.core.dataset_spec import resource_id
from veilpod.core.entities import ChainEvent, NodeStatus, Role
from veilpod.core.keys import SigningKey
from veilpod.core.kinds import DATASETS
from veilpod.errors import ChainUnavailable

STRANGER = SigningKey(secret=b"\x77" * 32)
RESOURCE = resource_id(KEY.address, "north")


async def test_a_data_set_becomes_ready_once_its_bytes_are_here(tmp_path: pathlib.Path) -> None:
    data = sealed()
    async with world(tmp_path) as here:
        here.apply(data=data)
        before = await here.reconcile()
        assert before["Stored"] == ("False", "AwaitingUpload")
        assert before["Registered"] == ("False", "Registering")
        assert before["KeyHeldByStore"] == ("Unknown", "NotStored")
        assert here.chain.resources == {}

        assert (await here.upload(data)) == {"ok": {"stored": True}}

        async def ready() -> bool:
            return here.conditions().get("Ready") == ("True", "Ready")

        await here.until(ready)
        body = here.cluster.objects[DATASETS.plural, "north"]
        assert body["metadata"]["finalizers"] == [FINALIZER]
        assert body["status"]["phase"] == "Ready"
        assert body["status"]["resourceId"] == "0x" + RESOURCE.hex()
        assert here.conditions()["KeyHeldByStore"] == ("True", "OwnerIsStore")
        assert here.chain.resources[RESOURCE].size == len(data)


async def test_the_store_is_registered_as_a_storage_node_with_its_service_address(tmp_path: pathlib.Path) -> None:
    async with world(tmp_path) as here:
        [node] = here.chain.nodes.values()
        assert node.roles == Role.STORAGE
        assert node.endpoint == "198.19.0.7:9101"
        assert node.status is NodeStatus.ACTIVE


async def test_a_pass_without_news_writes_nothing(tmp_path: pathlib.Path) -> None:
    async with world(tmp_path) as here:
        here.apply(data=sealed())
        await here.reconcile()
        await here.reconcile()
        writes = here.cluster.writes
        await here.reconcile()
        assert here.cluster.writes == writes


async def test_another_owners_data_set_waits_for_its_owner_to_register_it(tmp_path: pathlib.Path) -> None:
    data = sealed()
    async with world(tmp_path) as here:
        digest = here.apply(data=data, owner=STRANGER.address)
        await here.reconcile()
        await here.upload(data)
        found = await here.reconcile()
        assert found["Registered"] == ("False", "NotRegistered")
        assert here.chain.resources == {}

        node = next(iter(here.chain.nodes))
        here.chain.address = STRANGER.address
        await here.chain.add_resource(node=node, name="north", digest=digest, size=len(data))
        here.chain.address = KEY.address
        found = await here.reconcile()
        assert found["Registered"] == ("True", "Registered")
        assert found["KeyHeldByStore"] == ("True", "StoreHoldsKey")
        assert found["Ready"] == ("True", "Ready")


async def test_custody_of_an_absent_owner_is_said_and_not_claimed(tmp_path: pathlib.Path) -> None:
    data = sealed(custodian=STRANGER)
    async with world(tmp_path) as here:
        here.apply(data=data, owner=STRANGER.address, custody="Owner")
        await here.reconcile()
        await here.upload(data)
        assert (await here.reconcile())["KeyHeldByStore"] == ("False", "OwnerHoldsKey")


async def test_an_object_sealed_to_another_key_is_never_ready(tmp_path: pathlib.Path) -> None:
    data = sealed(custodian=STRANGER)
    async with world(tmp_path) as here:
        here.apply(data=data)
        await here.reconcile()
        await here.upload(data)
        found = await here.reconcile()
        assert found["KeyHeldByStore"] == ("False", "SealedToAnother")
        assert found["Ready"][0] == "False"


async def test_a_revocation_is_never_undone(tmp_path: pathlib.Path) -> None:
    data = sealed()
    async with world(tmp_path) as here:
        here.apply(data=data)
        await here.reconcile()
        await here.upload(data)
        await here.reconcile()
        await here.chain.revoke_resource(RESOURCE)
        found = await here.reconcile()
        assert found["Registered"] == ("False", "Revoked")
        assert found["Ready"] == ("False", "Revoked")
        assert here.chain.resources[RESOURCE].revoked


async def test_a_data_set_applied_anew_after_its_revocation_is_registered_again(tmp_path: pathlib.Path) -> None:
    data = sealed()
    async with world(tmp_path) as here:
        digest = here.apply(data=data)
        await here.reconcile()
        await here.upload(data)
        node = next(iter(here.chain.nodes))
        await here.chain.add_resource(node=node, name="north", digest=digest, size=len(data))
        await here.chain.revoke_resource(RESOURCE)
        assert (await here.reconcile())["Registered"] == ("True", "Registered")


async def test_another_version_under_the_same_name_is_told_apart(tmp_path: pathlib.Path) -> None:
    data = sealed()
    async with world(tmp_path) as here:
        node = next(iter(here.chain.nodes))
        await here.chain.add_resource(node=node, name="north", digest=b"\x01" * 32, size=5)
        here.apply(data=data)
        await here.reconcile()
        await here.upload(data)
        assert (await here.reconcile())["Registered"] == ("False", "DigestDiffers")


async def test_a_deleted_data_set_is_revoked_before_its_bytes_go(tmp_path: pathlib.Path) -> None:
    data = sealed()
    async with world(tmp_path) as here:
        digest = here.apply(data=data)
        await here.reconcile()
        await here.upload(data)
        await here.reconcile()
        here.cluster.ask_deletion(DATASETS, "north")
        here.chain.down = True
        with pytest.raises(ChainUnavailable):
            await here.reconcile()
        assert here.service.blobs.has(digest)
        assert (DATASETS.plural, "north") in here.cluster.objects

        here.chain.down = False
        await here.role.reconcile(next(iter(await here.role.resync())))
        assert here.chain.resources[RESOURCE].revoked
        assert not here.service.blobs.has(digest)
        assert (DATASETS.plural, "north") not in here.cluster.objects


async def test_bytes_that_two_data_sets_share_stay_until_both_are_gone(tmp_path: pathlib.Path) -> None:
    data = sealed()
    async with world(tmp_path) as here:
        digest = here.apply(data=data)
        here.cluster.put(DATASETS, "copy", spec=here.cluster.objects[DATASETS.plural, "north"]["spec"] | {"dataset": "copy"})
        await here.reconcile()
        await here.reconcile("copy")
        await here.upload(data)
        here.cluster.ask_deletion(DATASETS, "copy")
        await here.role.reconcile(next(key for key in await here.role.resync() if key.name == "copy"))
        assert here.service.blobs.has(digest)


async def test_an_unreachable_store_is_unknown_and_not_empty(tmp_path: pathlib.Path) -> None:
    async with world(tmp_path, started=False) as here:
        here.cluster.objects.pop(("pods", "store-0"))
        await here.role.start()
        here.apply(data=sealed())
        assert (await here.reconcile())["Stored"] == ("Unknown", "StoreUnavailable")


async def test_a_chain_event_about_a_known_resource_is_a_hint_for_its_data_set(tmp_path: pathlib.Path) -> None:
    async with world(tmp_path) as here:
        here.apply(data=sealed())
        await here.reconcile()
        event = ChainEvent(contract="NodeRegistry", name="ResourceRevoked", subject=RESOURCE, args={}, block=1, transaction=b"")
        assert [key.name for key in here.role.interested(event)] == ["north"]
        assert list(here.role.interested(dataclasses.replace(event, subject=b"\0" * 32))) == []
