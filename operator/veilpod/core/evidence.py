"""Hardware evidence over a sandbox's statement: the question that tier T3 asks, and the one answer there is today. Pure.

    report data   SHA-384 of the statement's canonical bytes (`Statement.report_data`, 48 bytes): what a TEE binds into its evidence
    evidence      whatever the TEE's driver gives for that report data; the agent hands it out with its statement
    verdict       what a verifier (such as a Trustee) says of the two

Evidence that nobody verified is none, and evidence over anything but this very statement is none either: a verifier is always given the
report data, and never takes it out of the evidence. `NoTee` is the verifier of a server without a TEE.
"""

import dataclasses

REPORT_DATA_BYTES = 48


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether hardware vouches for a statement. `reason` is CamelCase, for the condition Attested; `message` a sentence for people."""

    attested: bool
    reason: str
    message: str


NO_TEE = Verdict(attested=False, reason="NoTEE", message="no hardware evidence: this server's host is inside the trust base")


class NoTee:
    """A ports.Tee and a ports.Verifier: without a TEE nothing is collected, and nothing is believed."""

    def collect(self, report_data: bytes) -> bytes:
        """No evidence."""
        return b""

    async def verify(self, *, report_data: bytes, evidence: bytes) -> Verdict:
        """Say that there is no TEE, whatever was handed in: an unverified blob is worth nothing."""
        if len(report_data) != REPORT_DATA_BYTES:
            raise ValueError(f"report data are {REPORT_DATA_BYTES} bytes")
        return NO_TEE
