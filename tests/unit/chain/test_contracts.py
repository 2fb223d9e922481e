import eth_abi
import pytest

from veilpod.chain import contracts
from veilpod.core.canonical import keccak256
from veilpod.core.entities import ChannelPhase, NodeStatus, TaskPhase
from veilpod.core.keys import checksum_address
from veilpod.errors import ChainUnavailable, InvalidInput


def test_the_artifacts_have_everything_that_the_adapter_calls():
    functions = {
        "NodeRegistry": "register rotateKey setEndpoint setStatus heartbeat addResource revokeResource "
        "node nodeCount page resource resourcesNamed",
        "TaskScheduler": "request assign publishKey report complete cancel refund depositStake task stakeOf",
        "ChannelManager": "open join cancel close challenge respond finalize channel",
    }
    for name, wanted in functions.items():
        assert set(wanted.split()) <= set(contracts.contract(name).functions)


def test_a_call_has_its_selector_and_solidity_encoding():
    report = contracts.contract("TaskScheduler").functions["report"]
    assert report.encode(b"\x01" * 32, 3) == keccak256(b"report(bytes32,uint8)")[:4] + eth_abi.encode(
        ["bytes32", "uint8"], [b"\x01" * 32, 3]
    )
    request = contracts.contract("TaskScheduler").functions["request"]
    assert request.selector == keccak256(b"request(bytes32,bytes,(uint8,uint96,uint96,uint40,uint40,uint40,uint40))")[:4]


@pytest.mark.parametrize("answer", [b"", b"\x01", bytes(31), b"\xff" * 32])
def test_an_answer_that_cannot_be_decoded_is_not_believed(answer):
    with pytest.raises(ChainUnavailable):
        contracts.contract("NodeRegistry").functions["node"].decode(answer)


def test_a_string_that_is_no_text_does_not_stop_the_decoding():
    view = (1, "0x" + "11" * 20, 8, 1, 1, 5, 0, bytes(32), bytes(32), b"\xff\xfe")
    answer = eth_abi.encode(["(uint32,address,uint8,uint8,uint32,uint40,uint32,bytes32,bytes32,bytes)"], [view])
    assert contracts.contract("NodeRegistry").functions["node"].decode(answer)[0][-1] == b"\xff\xfe"


def test_custom_errors_are_named_with_their_values():
    selector = keccak256(b"UseEpoch(uint16)")[:4]
    assert contracts.error_name(selector + eth_abi.encode(["uint16"], [3])) == "UseEpoch(3)"
    owner = checksum_address(b"\xab" * 20)
    topped = keccak256(b"TopUpStake(address,uint256)")[:4] + eth_abi.encode(["address", "uint256"], [owner, 5])
    assert contracts.error_name(topped) == f"TopUpStake({owner}, 5)"
    assert contracts.error_name(keccak256(b"Error(string)")[:4] + eth_abi.encode(["string"], ["no"])) == "Error(no)"
    assert contracts.error_name(selector) == "UseEpoch"
    assert contracts.error_name(b"\xde\xad\xbe\xef") is None
    assert contracts.error_name(b"") is None


def test_the_enumerations_are_the_contracts():
    # Solidity numbers its members in order; these are the interfaces' orders.
    assert [phase.name for phase in TaskPhase] == ["NONE", "REQUESTED", "ASSIGNED", "RUNNING", "COMPLETED", "CLOSED"]
    assert [phase.name for phase in ChannelPhase] == ["NONE", "OPENING", "OPEN", "DISPUTED", "CLOSED"]
    assert [status.name for status in NodeStatus] == ["NONE", "ACTIVE", "DRAINING", "OFFLINE", "SUSPENDED", "RETIRED"]


def test_a_deployment_survives_its_file_and_may_say_more():
    addresses = contracts.Addresses(
        registry=checksum_address(b"\x01" * 20), scheduler=checksum_address(b"\x02" * 20), channels=checksum_address(b"\x03" * 20), since=7
    )
    assert contracts.Addresses.from_json(addresses.to_json() | {"guardian": "somebody"}) == addresses
    with pytest.raises(InvalidInput):
        contracts.Addresses.from_json({"registry": "0x01"})
