import asyncio
import dataclasses

import pytest
from tests.support import sandboxes

from veilpod.core.evidence import NO_TEE, NoTee
from veilpod.core.tiers import Kernel, Marks, check_promise, reaches, recognise, tier_on
from veilpod.errors import Refused

KATA = "reboot=k panic=1 systemd.unit=kata-containers.target systemd.mask=systemd-networkd.service"
STATEMENT = sandboxes.statement(sandboxes.keys())


@pytest.mark.parametrize(
    ("log", "command_line", "kernel", "tier"),
    [
        (b"[    0.000000] Starting gVisor...\n[    0.5] Ready!", "BOOT_IMAGE=/vmlinuz", Kernel.GVISOR, "T1"),
        (b"", KATA, Kernel.KATA, "T1"),
        (b"", "BOOT_IMAGE=/vmlinuz quiet", Kernel.SHARED, "T0"),
        (b"Linux version 6.1 Hypervisor detected: KVM", "console=ttyS0 reboot=k panic=1", Kernel.SHARED, "T0"),
        (b"", "note=systemd.unit=kata-containers.target", Kernel.SHARED, "T0"),
    ],
    ids=["gvisor", "kata", "plain", "a node that is a virtual machine", "a word that only looks like kata"],
)
def test_a_tier_is_what_is_seen_from_inside(log: bytes, command_line: str, kernel: Kernel, tier: str) -> None:
    assert recognise(Marks(log=log, command_line=command_line)) is kernel
    assert tier_on(kernel) == tier


def test_less_than_was_promised_is_refused_and_more_is_not() -> None:
    with pytest.raises(Refused) as refused:
        check_promise(observed="T0", promised="T1")
    assert refused.value.reason == "RuntimeMismatch"
    for observed, promised in (("T0", "T0"), ("T1", "T0"), ("T1", "T1")):
        check_promise(observed=observed, promised=promised)


@pytest.mark.parametrize(
    ("tier", "denied", "rung"), [("T0", True, "T0"), ("T0", False, "T0"), ("T1", False, "T1"), ("T1", True, "T2")], ids=str
)
def test_a_sealed_sandbox_is_a_sandboxed_one_that_nobody_gets_into(tier: str, denied: bool, rung: str) -> None:
    assert dataclasses.replace(STATEMENT, tier=tier, host_access_denied=denied).rung == rung
    assert not reaches(rung, "T3")


def test_without_a_tee_no_evidence_is_believed() -> None:
    tee = NoTee()
    for evidence in (tee.collect(STATEMENT.report_data), b"trust me"):
        assert asyncio.run(tee.verify(report_data=STATEMENT.report_data, evidence=evidence)) == NO_TEE
    assert not NO_TEE.attested
    with pytest.raises(ValueError):
        asyncio.run(tee.verify(report_data=STATEMENT.digest, evidence=b""))  # 32 bytes are another digest
