"""From a manifest to the bytes on chain and back."""

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.core.task.world import a_spec

from veilpod.core.canonical import keccak256
from veilpod.core.entities import Resource
from veilpod.core.ids import Address, NodeId, ResourceId
from veilpod.core.keys import checksum_address
from veilpod.core.sealing import HybridPrivateKey, recipient_text
from veilpod.core.task import manifest
from veilpod.core.task import spec as specs
from veilpod.errors import InvalidInput, ProtocolViolation, Refused

RECIPIENT = recipient_text(HybridPrivateKey.from_bytes(b"\x01" * 96).public_bytes)
OWNER = checksum_address(b"\x05" * 20)
MANIFEST = {
    "program": {
        "image": "r/p@sha256:" + "0" * 64, "command": ["run"], "env": {"B": "2", "A": "1"}, "resources": {"cpu": "500m", "memory": "1Gi"},
    },
    "roles": [{"name": "hub", "replicas": 1}, {"name": "site", "replicas": 2, "args": ["train"]}],
    "topology": {"type": "Star", "hub": "hub", "ports": [9092]},
    "inputs": [{"dataset": "north", "to": {"role": "site", "index": 1}, "path": "train.csv"}],
    "result": {"from": "hub", "recipient": RECIPIENT, "maxSize": "64Mi"},
    "payment": {"budget": "0.05", "perServer": "0.01", "perTransferMiB": "0.0001"},
    "deadlines": {"schedule": "2m", "inputs": "90s", "compute": "1h30m", "total": "2h"},
}  # fmt: skip


TOKEN = checksum_address(b"\xab" * 20)


def resource(owner: Address = OWNER, *, revoked: bool = False) -> Resource:
    return Resource(id=ResourceId(b"\x07" * 32), owner=owner, node=NodeId(9), revoked=revoked, digest=b"\x08" * 32, size=10, name="north")


def complete(document=MANIFEST, found=None) -> specs.TaskSpec:
    found = (resource(),) if found is None else found
    return manifest.complete(manifest.parse_manifest(document), {"north": found}, mailbox=NodeId(5))


def test_a_manifest_becomes_a_specification_that_reads_back_the_same() -> None:
    spec = complete()
    assert specs.decode_spec(spec.encode()) == spec
    assert spec.program.env == (("A", "1"), ("B", "2"))
    assert spec.payment == specs.Payment(per_server=10**16, per_transfer_mib=10**14, channel_deposit=10**15)
    assert spec.deadlines == specs.Deadlines(schedule=120, inputs=90, compute=5400, total=7200)
    assert spec.inputs[0].to == 2
    assert spec.links == ((0, 1), (0, 2))


def test_a_constant_rate_goes_from_the_manifest_to_the_chain_and_is_not_too_slow_to_use() -> None:
    spec = complete(MANIFEST | {"onion": {"constantRate": "1Mi"}})
    assert specs.decode_spec(spec.encode()).constant_rate == 1 << 20
    with pytest.raises(ProtocolViolation):
        specs.decode_spec(dataclasses.replace(spec, constant_rate=1000).encode())


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        ((), "DatasetNotFound"),
        ((resource(revoked=True),), "DatasetRevoked"),
        ((resource(), resource(checksum_address(b"\x06" * 20))), "DatasetAmbiguous"),
    ],
)
def test_a_data_set_that_is_not_one_is_refused_by_name(found, reason) -> None:
    with pytest.raises(InvalidInput) as caught:
        complete(found=found)
    assert caught.value.reason == reason


def test_a_revoked_namesake_does_not_make_a_name_ambiguous() -> None:
    assert complete(found=(resource(checksum_address(b"\x06" * 20), revoked=True), resource())).inputs[0].owner == OWNER


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"payment": {"budget": "0.02", "perServer": "0.01"}}, "BudgetTooSmall"),
        ({"payment": {"budget": "1e3", "perServer": "0.01"}}, "InvalidMoney"),
        ({"payment": {"budget": "1.0000001", "perServer": "0.01", "asset": TOKEN, "decimals": 6}}, "InvalidMoney"),
        ({"payment": {"budget": "1", "perServer": "0.01", "asset": "gold", "decimals": 6}}, "InvalidAsset"),
        ({"payment": {"budget": "1", "perServer": "0.01", "asset": TOKEN, "decimals": 37}}, "InvalidAsset"),
        ({"payment": {"budget": "1", "perServer": "0.01", "decimals": 6}}, "InvalidAsset"),
        ({"result": {"from": "hub", "recipient": "veil1nobody"}}, "InvalidRecipient"),
        ({"result": {"from": "nobody", "recipient": RECIPIENT}}, "NoSuchServer"),
        ({"deadlines": {"total": "1m"}}, "BadSpec"),
        ({"deadlines": {"compute": "soon"}}, "InvalidDuration"),
    ],
)
def test_what_the_api_server_cannot_know_is_refused_with_a_reason(change, reason) -> None:
    with pytest.raises(InvalidInput) as caught:
        complete(MANIFEST | change)
    assert caught.value.reason == reason


@given(st.integers(0, 999_999), st.integers(0, 10**18 - 1))
def test_money_is_exact(coins: int, wei: int) -> None:
    assert manifest.to_units(f"{coins}.{wei:018d}") == coins * 10**18 + wei


@given(st.integers(0, 999_999), st.integers(0, 18), st.data())
def test_money_in_a_token_is_exact_too(whole: int, decimals: int, data) -> None:
    part = data.draw(st.integers(0, 10**decimals - 1))
    text = f"{whole}.{part:0{decimals}d}" if decimals else str(whole)
    assert manifest.to_units(text, decimals) == whole * 10**decimals + part


def test_a_task_is_paid_in_the_asset_that_it_names() -> None:
    spec = complete(MANIFEST | {"payment": {"budget": "50", "perServer": "10.5", "asset": TOKEN.lower(), "decimals": 6}})
    assert specs.decode_spec(spec.encode()) == spec
    assert (spec.payment.asset, spec.payment.per_server, spec.payment.channel_deposit) == (TOKEN, 10_500_000, 1_000)
    assert specs.channel_terms(OWNER, spec.payment).asset == TOKEN
    assert complete().payment.asset == "0x" + "0" * 40


def test_a_reader_forgives_nothing() -> None:
    good = json.loads(a_spec().encode())
    wrong = [
        good | {"extra": 1},
        {name: value for name, value in good.items() if name != "quorum"},
        good | {"version": 2},
        good | {"payment": good["payment"] | {"perServer": "010"}},
        good | {"topology": good["topology"] | {"hub": "nobody"}},
        good | {"inputs": [good["inputs"][0] | {"path": "../x"}]},
        good | {"roles": [good["roles"][0], good["roles"][0]]},
        good | {"result": good["result"] | {"from": 3}},
    ]
    for document in wrong:
        with pytest.raises(ProtocolViolation):
            specs.decode_spec(json.dumps(document, sort_keys=True, separators=(",", ":")).encode())
    with pytest.raises(ProtocolViolation):
        specs.decode_spec(json.dumps(good).encode())  # right, and not canonical


def test_the_task_id_is_the_contracts() -> None:
    salt = keccak256(b"uid")
    assert specs.request_salt("uid") == salt
    assert specs.task_id(OWNER, "uid") == keccak256(bytes(12) + b"\x05" * 20 + salt)


def test_the_quorum_decides_who_is_needed() -> None:
    spec = dataclasses.replace(a_spec(), quorum=specs.Quorum(role="site", min=1))
    assert not specs.needed(spec, [])
    assert not specs.needed(spec, [1])
    assert specs.needed(spec, [1, 2])
    assert specs.needed(spec, [0])
    assert specs.needed(dataclasses.replace(spec, quorum=specs.Quorum()), [1])


def test_each_requester_has_lanes_of_its_own_and_a_channel_keeps_its_id_in_one() -> None:
    spec = a_spec()
    other = dataclasses.replace(spec, payment=dataclasses.replace(spec.payment, lane=1))
    stranger = Address("0x" + "06" * 20)
    owners = [Address("0x" + f"{index:02x}" * 20) for index in (7, 8, 9)]
    assert specs.channels_of(OWNER, spec, owners) == specs.channels_of(OWNER, dataclasses.replace(spec, hops=5), owners)
    ids = [*specs.channels_of(OWNER, spec, owners), *specs.channels_of(OWNER, other, owners), *specs.channels_of(stranger, spec, owners)]
    assert len(set(ids)) == len(ids) == 3 * len(spec.links)
    assert specs.channel_terms(OWNER, other.payment).lane < 1 << 48


@pytest.mark.parametrize("port", [0, 80, 7443, 7444, 1 << 16])
def test_a_port_that_is_not_the_programs_to_have_is_refused_also_when_it_comes_from_the_chain(port) -> None:
    spec = complete()
    with pytest.raises(ProtocolViolation) as refused:
        specs.decode_spec(dataclasses.replace(spec, topology=dataclasses.replace(spec.topology, ports=(port,))).encode())
    assert refused.value.reason == "BadSpec"


def test_a_program_gets_no_port_on_which_its_agent_meets_others() -> None:
    spec = complete()
    specs.check_ports(spec, [9001, 7443])
    with pytest.raises(Refused) as refused:
        specs.check_ports(spec, [9001, *spec.topology.ports])
    assert refused.value.reason == "PortTaken"
