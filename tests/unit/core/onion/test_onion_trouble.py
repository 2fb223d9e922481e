import time

import pytest
from tests.support.onion import entry, network, owner

from veilpod.core.meeting import FAILURES
from veilpod.core.onion.trouble import TROUBLES, find_trouble, trouble_of
from veilpod.core.task.remedies import remedy
from veilpod.errors import CircuitFailed, InvalidInput, PeerUnavailable, Refused
from veilpod.relay.limits import Limits

NOW = time.time()
RELAYS = [entry(n) for n in (1, 2, 3)]


def reason(directory, *, hops=3, in_cluster=False, now=NOW):
    found = find_trouble(directory, hops=hops, in_cluster=in_cluster, now=now)
    return found and found.reason


def test_the_directory_alone_shows_that_there_is_no_path():
    assert reason(RELAYS) is None
    assert reason([]) == reason(RELAYS[:2]) == reason(RELAYS, hops=4) == "TooFewRelays"
    assert reason([entry(n, owner=owner(1)) for n in (1, 2, 3)]) == "NoDiversePath"
    assert reason([entry(n, owner=owner(1)) for n in (1, 2, 3)], in_cluster=True) is None
    assert reason(RELAYS, hops=2) == "BadHops"


def test_by_the_chains_own_time_old_heartbeats_are_missing_relays():
    assert reason(RELAYS, now=NOW + 7200) == "TooFewRelays"


def test_every_trouble_is_a_failure_with_a_remedy():
    assert TROUBLES <= FAILURES
    assert all(remedy(code) for code in FAILURES)


def test_what_has_nothing_to_do_with_relays_is_no_trouble():
    assert trouble_of(Refused("ExitRefused", "not here")) == ""
    assert trouble_of(InvalidInput("BadHops", "two")) == ""
    assert trouble_of(PeerUnavailable("nobody waits at the meeting relay under this cookie")) == ""
    assert trouble_of(CircuitFailed("a relay did not answer in time")) == "RelaysUnreachable"


async def trouble_in(net) -> str:
    with pytest.raises(CircuitFailed) as caught:
        await net.proxy().rendezvous()
    return trouble_of(caught.value)


async def test_relays_without_room_and_relays_that_drain_are_full():
    async with network(3, limits=Limits(circuits=0)) as net:
        assert await trouble_in(net) == "RelaysFull"
    async with network(3) as net:
        for relay in net.relays.values():
            relay.draining = True
        assert await trouble_in(net) == "RelaysFull"


async def test_a_relay_that_takes_no_more_cookies_is_full(monkeypatch):
    monkeypatch.setattr("veilpod.relay.router.Relay.leave_cookie", lambda *_: False)
    async with network(3) as net:
        assert await trouble_in(net) == "RelaysFull"


async def test_relays_that_are_gone_are_unreachable():
    async with network(3) as net:
        for relay in net.relays.values():
            await relay.close()
        assert await trouble_in(net) == "RelaysUnreachable"
