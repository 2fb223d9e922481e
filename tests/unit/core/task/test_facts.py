"""What is written is what is read, and an agent's events only ever add."""

from hypothesis import given
from hypothesis import strategies as st

from veilpod.core.agent_messages import Exit, Failed, Flushed, OffersCollected, SealedResultInfo
from veilpod.core.evidence import Verdict
from veilpod.core.ids import PodUid, ServerIndex
from veilpod.core.keys import checksum_address
from veilpod.core.task.agent_events import fold
from veilpod.core.task.facts import AgentSeen, Facts, Failure, Meeting, PodRecord, SignedResult, parse_facts

KEY = checksum_address(b"\x01" * 20)
EVENTS = [
    ("netguard", {"allowed": 1, "blocked": 2}),
    ("ready", {}),
    ("offers", OffersCollected(key=KEY, statements=(b"s" * 32,), statements_hash=b"h" * 32, signers=(KEY,)).document()),
    ("accepted", {}),
    ("inputs", {"received": 1, "verified": 0, "total": 1}),
    ("inputs", {"received": 1, "verified": 1, "total": 1}),
    ("started", {}),
    ("receipt", {"peer": 1}),
    ("exited", Exit(how="Exited", code=0).document()),
    ("result", SealedResultInfo(result_hash=b"r" * 32, digest=b"d" * 32, size=9, signature=b"x" * 65).document()),
    ("delivered", {}),
    ("flushed", Flushed(links=((ServerIndex(1), 5, 6),)).document()),
]


def whole() -> AgentSeen:
    agent = AgentSeen()
    for event, data in EVENTS:
        agent = fold(agent, event, data)
    return agent


def test_the_events_of_a_life_add_up() -> None:
    agent = whole()
    assert agent.meeting == Meeting(key=KEY, statements=(b"s" * 32,), signers=(KEY,))
    assert (agent.ready, agent.verified, agent.exited, agent.delivered, agent.traffic) == (True, True, 0, True, ((1, 5, 6),))


@given(st.lists(st.sampled_from(EVENTS), max_size=20))
def test_repeated_events_change_nothing(repeats) -> None:
    agent = whole()
    for event, data in repeats:
        agent = fold(agent, event, data)
    assert agent == whole()


def test_only_a_fatal_failure_ends_the_sandbox_and_the_first_one_stays() -> None:
    agent = fold(AgentSeen(), "failed", Failed(code="PeerLost", fatal=False, peer=ServerIndex(1)).document())
    assert agent.failed == ""
    agent = fold(agent, "failed", Failed(code="ProgramFailed").document())
    assert fold(agent, "failed", Failed(code="Cancelled").document()).failed == "ProgramFailed"


def test_whom_an_agent_blames_is_remembered_with_its_first_failure() -> None:
    agent = fold(AgentSeen(), "failed", Failed(code="CeremonyFault", peer=ServerIndex(2)).document())
    agent = fold(agent, "failed", Failed(code="PeerLost", peer=ServerIndex(1)).document())
    assert (agent.failed, agent.blamed) == ("CeremonyFault", 2)
    assert parse_facts(Facts(agent=agent).to_json()).agent == agent


def test_a_program_that_did_not_end_well_did_not_exit_with_zero() -> None:
    assert fold(AgentSeen(), "exited", Exit(how="Signaled", code=0).document()).exited == 1
    assert fold(AgentSeen(), "exited", Exit(how="Exited", code=3).document()).exited == 3


def test_every_field_survives_the_disk() -> None:
    facts = Facts(
        incarnation=2,
        nonce="n",
        intended_at=7,
        pods=(PodRecord(uid=PodUid("u"), incarnation=2, ends=9, evidence=True),),
        agent=whole(),
        statement=b"s" * 32,
        signer=KEY,
        tls_key=b"t" * 32,
        policies=b"p" * 32,
        verdict=Verdict(attested=True, reason="Verified", message="by a verifier"),
        offered=True,
        accepted_key=b"k" * 32,
        handed=True,
        ending_since=5,
        finals=True,
        released=True,
        zeroised="Acknowledged",
        zeroise_proof=b"z" * 65,
        destroyed="Observed",
        failure=Failure(stage="Computed", code="ProgramFailed"),
    )
    assert parse_facts(facts.to_json()) == facts
    assert parse_facts(Facts().to_json()) == Facts()


def test_a_failed_part_has_no_result_to_complete_with() -> None:
    result = SignedResult(result_hash=b"r" * 32, size=9, signature=b"x" * 65)
    good = Facts(agent=AgentSeen(result=result, delivered=True))
    assert good.acknowledged_result == result
    assert Facts(agent=AgentSeen(result=result)).acknowledged_result is None
    assert Facts(agent=AgentSeen(result=result, delivered=True), failure=Failure(stage="a", code="b")).acknowledged_result is None
