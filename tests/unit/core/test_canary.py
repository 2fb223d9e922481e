import pytest
from hypothesis import given
from hypothesis import strategies as st

from veilpod.core.canary import Canary, on_node, parse_canary, possible_canary
from veilpod.errors import InvalidInput

NO_CANARIES = [
    "",
    "10.0.0.1",
    "10.0.0.1:0",
    "10.0.0.1:65536",
    "metadata.example:80",
    "icmp://10.0.0.1:1",
    "fd00::1:80",
    "[10.0.0.1]:80",
    "node",
]
IMPOSSIBLE = ["127.0.0.1:80", "[::1]:80", "0.0.0.0:80", "[::]:80", "224.0.0.1:80", "[ff02::1]:80", "[fe80::1]:80", "[::ffff:127.0.0.1]:80"]
addresses = st.ip_addresses().filter(
    lambda ip: (
        not (ip.is_loopback or ip.is_unspecified or ip.is_multicast or str(ip) == "255.255.255.255")
        and not (ip.version == 6 and (ip.is_link_local or ip.ipv4_mapped))
    )
)


@given(st.sampled_from(["tcp", "udp"]), addresses.map(str) | st.just("node"), st.integers(1, 65535))
def test_a_canary_is_read_as_it_is_spelt(protocol: str, host: str, port: int) -> None:
    canary = Canary(protocol=protocol, host=host, port=port)
    assert possible_canary(canary.spell()) == canary


def test_a_plain_address_is_tcp() -> None:
    assert parse_canary("10.0.0.1:443") == parse_canary("tcp://10.0.0.1:443")
    assert parse_canary("udp://10.0.0.1:53").protocol == "udp"


@pytest.mark.parametrize(
    "text",
    [*NO_CANARIES, *IMPOSSIBLE],
)
def test_what_is_no_canary_or_proves_nothing_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        possible_canary(text)
    assert refused.value.reason == "ImpossibleCanary"


@given(st.text(max_size=80))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        canary = parse_canary(text)
    except InvalidInput:
        return
    assert parse_canary(canary.spell()) == canary


def test_a_canary_on_the_node_is_at_each_of_its_addresses_once() -> None:
    found = on_node([parse_canary("node:10250"), parse_canary("10.0.0.7:10250")], ["10.0.0.7", "fd00::7"])
    assert [canary.spell() for canary in found] == ["10.0.0.7:10250", "[fd00::7]:10250"]
    with pytest.raises(InvalidInput):
        on_node([parse_canary("node:10250")], [])
