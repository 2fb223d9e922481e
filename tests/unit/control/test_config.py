"""The configuration file: a typo is an error with a sentence."""

import pytest
import yaml

from veilpod.control.config import load, parse
from veilpod.errors import InvalidInput

TOWER = {"url": "https://tower.example", "address": "0x" + "ab" * 20}
GOOD = {
    "namespace": "party",
    "sandboxNamespace": "party-sandboxes",
    "roles": ["requester", "compute"],
    "chain": {
        "rpcUrl": "http://chain",
        "chainId": 31337,
        "contracts": {"registry": "0x" + "1" * 40, "scheduler": "0x" + "2" * 40, "channels": "0x" + "3" * 40},
    },
    "images": {"agent": "a@sha256:" + "0" * 64},
    "compute": {"capacity": 2, "stake": "100000000000000000", "relayPort": 9001, "canaries": ["10.0.0.1:443"], "watchtowers": [TOWER]},
    "requester": {"mailboxService": "mailbox"},
    "stateDir": "/state",
    "keyFile": "/key",
}


def test_a_whole_file_becomes_values(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(GOOD))
    config = load(path)
    assert config.compute.stake == 10**17
    assert config.compute.canaries == ("10.0.0.1:443",)
    (tower,) = config.compute.watchtowers
    assert (tower.url, tower.address.lower()) == ("https://tower.example", "0x" + "ab" * 20)
    assert config.mailbox_service == "mailbox"
    assert config.chain.confirmations == 1


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"chian": {}}, "chian"),
        ({"roles": ["computer"]}, "computer"),
        ({"roles": []}, "roles"),
        ({"namespace": 7}, "namespace"),
        ({"compute": {"capcity": 1}}, "capcity"),
        ({"compute": {"stake": "0.1"}}, "stake"),
        ({"requester": {}}, "mailboxService"),
        ({"chain": {**GOOD["chain"], "crossCheckUrl": GOOD["chain"]["rpcUrl"]}}, "crossCheckUrl"),
        ({"images": {}}, "images.agent"),
        ({"compute": {"watchtowers": [{"url": "tower.example", "address": "0x" + "ab" * 20}]}}, "http"),
        ({"compute": {"watchtowers": [{"url": "http://t", "address": "0x12"}]}}, "watchtowers: an account"),
        ({"compute": {"assets": ["gold"]}}, "assets: an account"),
        ({"compute": {"watchtowers": [TOWER | {"key": "1"}]}}, "key"),
        ({"compute": {"watchtowers": [TOWER, TOWER]}}, "twice"),
    ],
)
def test_a_mistake_is_named(change, word):
    with pytest.raises(InvalidInput) as caught:
        parse(GOOD | change)
    assert caught.value.reason == "InvalidConfig"
    assert word in str(caught.value)
