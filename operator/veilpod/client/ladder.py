"""The claim ladder: what a sandbox's statement supports, and what it does not. Never overstated, printed and never summarised away."""

import dataclasses
from collections.abc import Callable

from veilpod.core.ids import Address
from veilpod.core.meeting import Offer
from veilpod.core.statement import Statement, verify_countersignature, verify_statement
from veilpod.core.tiers import reaches
from veilpod.errors import ProtocolViolation

TIERS = (
    ("T0", "Isolated", "other tenants, the network and the task's own bugs cannot reach the data"),
    ("T1", "Sandboxed", "the task cannot attack its host"),
    ("T2", "Sealed", "a curious cluster operator needs a deliberate, detectable act"),
    ("T3", "Confidential", "the host is outside the trust base, up to the TEE's limits"),
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One line: `holds` is True, False, or None for "not checked here"."""

    holds: bool | None
    text: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What who checks a statement knows from elsewhere: the chain, the task, a release's notes. None: not checked, and said so."""

    server: Address | None = None
    digest: bytes | None = None
    program: str | None = None  # image digest, `sha256:…`
    agent: str | None = None


def climb(offer: Offer, known: Known = Known()) -> list[Step]:
    """Check a statement step by step."""
    statement, server = offer.statement, known.server
    return [
        _checked("signed by the sandbox key that it names", lambda: verify_statement(statement, offer.signature)),
        Step(holds=None, text="countersigned by its server (not checked: give --server)")
        if server is None
        else _checked(f"countersigned by its server {server}", lambda: verify_countersignature(statement, offer.server_signature, server)),
        _same("published on chain", f"0x{statement.digest.hex()}", None if known.digest is None else f"0x{known.digest.hex()}", "--digest"),
        _same("runs the program", statement.program_image, known.program, "--program"),
        _same("beside the agent", statement.agent_image, known.agent, "--agent"),
        Step(
            holds=True,
            text=f"states that netguard reached {statement.allowed} and blocked {statement.blocked} addresses before any key existed",
        ),
        Step(holds=True, text="states that its kernel keeps the program to the task's own ports")
        if statement.program_confined
        else Step(holds=None, text="does not state that the program is kept to the task's own ports: it may speak to relays itself"),
        *_tiers(statement),
    ]


def sound(steps: list[Step]) -> bool:
    """Whether nothing that was checked failed. Tiers that are not claimed are no failure."""
    return all(step.holds is not False for step in steps if not step.text.startswith("T"))


def _tiers(statement: Statement) -> list[Step]:
    return [
        Step(holds=reaches(statement.rung, name), text=f"{name} {title}: {claim}{_why_not(statement, name)}")
        for name, title, claim in TIERS
    ]


def _why_not(statement: Statement, name: str) -> str:
    if reaches(statement.rung, name):
        return ""
    if name == "T3":
        return f" — not claimed: no hardware evidence (NoTEE); a verifier would be asked about 0x{statement.report_data.hex()}"
    if name == "T2" and not statement.host_access_denied:
        return " — not claimed: its SandboxClass lets the cluster's people in"
    return " — not claimed: from inside, no kernel was found between the task and its host"


def _same(text: str, stated: str, expected: str | None, option: str) -> Step:
    if expected is None:
        return Step(holds=None, text=f"{text} {stated} (not checked: give {option})")
    return Step(holds=stated == expected, text=f"{text} {expected}" + ("" if stated == expected else f": it states {stated}"))


def _checked(text: str, check: Callable[[], None]) -> Step:
    try:
        check()
    except ProtocolViolation as error:
        return Step(holds=False, text=f"{text}: {error}")
    return Step(holds=True, text=text)
