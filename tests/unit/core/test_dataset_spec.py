"""Reading a Dataset, and the id that the contract gives it. The rule itself is tested where it is asked: test_storage_deliveries."""

import eth_abi.abi
import pytest
from hypothesis import given
from hypothesis import strategies as st

from veilpod.core.canonical import keccak256
from veilpod.core.dataset_spec import parse_dataset, resource_id
from veilpod.core.keys import checksum_address
from veilpod.errors import InvalidInput

OWN = checksum_address(b"\x01" * 20)
SPEC = {"dataset": "north", "digest": "sha256:" + "ab" * 32, "size": 7}


@given(owner=st.binary(min_size=20, max_size=20), name=st.text(max_size=100))
def test_a_resource_id_is_what_the_contract_computes(owner: bytes, name: str) -> None:
    address = checksum_address(owner)
    assert resource_id(address, name) == keccak256(eth_abi.abi.encode(["address", "string"], [address, name]))


def test_a_data_set_without_an_owner_is_the_releases_own() -> None:
    parsed = parse_dataset(SPEC, own=OWN)
    assert parsed.owner == OWN
    assert not parsed.store_holds_key
    assert parsed.policy.min_tier == "T0"
    assert parsed.policy.programs == frozenset()


def test_a_policy_names_programs_by_their_digest() -> None:
    image = "registry.example/a@sha256:" + "c" * 64
    parsed = parse_dataset({**SPEC, "policy": {"programs": [image], "requesters": ["0x" + "01" * 20]}}, own=OWN)
    assert parsed.policy.programs == {"sha256:" + "c" * 64}
    assert parsed.policy.requesters == {OWN}


@pytest.mark.parametrize("change", [{"digest": "sha256:ab"}, {"digest": None}, {"owner": "0x12"}, {"size": "many"}, {"dataset": None}])
def test_what_cannot_be_read_is_a_persons_to_correct(change: dict[str, object]) -> None:
    spec = {key: value for key, value in (SPEC | change).items() if value is not None}
    with pytest.raises(InvalidInput):
        parse_dataset(spec, own=OWN)
