"""The claim ladder: what a sandbox's statement supports, and what it does not. Never overstated, printed and never summarised away."""

import dataclasses
from collections.abc import Callable

from veilpod.core.ids import Address
from veilpod.core.meeting import Offer
from veilpod.core.statement import Statement, verify_countersignature, verify_statement
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


def climb(offer: Offer, *, server: Address | None = None, digest: bytes | None = None) -> list[Step]:
    """Check a statement against what is known of the chain (the server's account, the published digest), step by step."""
    statement = offer.statement
    steps = [
        _checked("signed by the sandbox key that it names", lambda: verify_statement(statement, offer.signature)),
        Step(holds=None, text="countersigned by its server (not checked: give --server)")
        if server is None
        else _checked(f"countersigned by its server {server}", lambda: verify_countersignature(statement, offer.server_signature, server)),
        Step(holds=None, text="published on chain (not checked: give --digest)")
        if digest is None
        else Step(holds=digest == statement.digest, text=f"published on chain as 0x{digest.hex()}"),
        Step(
            holds=True,
            text=f"states that netguard reached {statement.allowed} and blocked {statement.blocked} addresses before any key existed",
        ),
    ]
    return [*steps, *_tiers(statement)]


def sound(steps: list[Step]) -> bool:
    """Whether nothing that was checked failed. Tiers that are not claimed are no failure."""
    return all(step.holds is not False for step in steps if not step.text.startswith("T"))


def _tiers(statement: Statement) -> list[Step]:
    claimed = [name for name, _, _ in TIERS].index(statement.tier)
    return [
        Step(holds=number <= claimed, text=f"{name} {title}: {claim}" + ("" if number <= claimed else " — not claimed"))
        for number, (name, title, claim) in enumerate(TIERS)
    ]


def _checked(text: str, check: Callable[[], None]) -> Step:
    try:
        check()
    except ProtocolViolation as error:
        return Step(holds=False, text=f"{text}: {error}")
    return Step(holds=True, text=text)
