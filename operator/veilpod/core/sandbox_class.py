"""A SandboxClass's specification as a value: the hardening and the limits that a cluster's admin offers under a name. Pure."""

import dataclasses
import re
from collections.abc import Collection, Mapping
from typing import Any

from veilpod.core.canary import possible_canary
from veilpod.core.task.conditions import Claim, no, yes
from veilpod.core.task.manifest import to_bytes
from veilpod.core.task.spec import TaskSpec
from veilpod.errors import InvalidInput, Refused

_CPU = re.compile(r"^([0-9]+)(m?)$")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SandboxClass:
    """`cpu` (most for a program), `agent_cpu` (what the agent gets beside it) in millis; sizes in bytes; `canaries` as in `core.canary`."""

    name: str
    tier: str = "T0"
    runtime_class: str = ""
    cpu: int = 4000
    agent_cpu: int = 200
    memory: int = 8 << 30
    scratch: int = 1 << 30
    canaries: tuple[str, ...] = ()
    deny_host_access: bool = True
    user_namespaces: bool = False  # WhenSupported
    confinement_required: bool = True
    grace_seconds: int = 10


def parse_sandbox_class(manifest: Mapping[str, Any]) -> SandboxClass:
    """Read a SandboxClass as the API server gives it. Raises InvalidInput("InvalidSandboxClass" or "ImpossibleCanary")."""
    try:
        spec = manifest["spec"]
        limits = spec.get("limits", {})
        made = SandboxClass(
            name=manifest["metadata"]["name"],
            tier=spec["tier"],
            runtime_class=spec.get("runtimeClassName", ""),
            cpu=to_millis(limits.get("cpu", "4")),
            agent_cpu=to_millis(spec.get("agent", {}).get("cpu", "200m")),
            memory=to_bytes(limits.get("memory", "8Gi")),
            scratch=to_bytes(limits.get("scratch", "1Gi")),
            canaries=tuple(possible_canary(text).spell() for text in spec.get("canaries", ())),
            deny_host_access=bool(spec.get("denyHostAccess", True)),
            user_namespaces=spec.get("userNamespaces", "Never") == "WhenSupported",
            confinement_required=spec.get("programConfinement", "Required") == "Required",
            grace_seconds=int(spec.get("terminationGracePeriodSeconds", 10)),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InvalidInput("InvalidSandboxClass", "a SandboxClass without a tier, or with a value of a wrong type") from error
    if not 1 <= made.grace_seconds <= 10:
        raise InvalidInput("InvalidSandboxClass", "a sandbox ends within 10 seconds: correct terminationGracePeriodSeconds")
    return made


def offered(manifest: Mapping[str, Any], runtime_classes: Collection[str]) -> Claim:
    """The condition Ready of a SandboxClass, in a cluster that has these RuntimeClasses."""
    try:
        made = parse_sandbox_class(manifest)
    except InvalidInput as error:
        return no(error.reason, str(error))
    if made.runtime_class and made.runtime_class not in runtime_classes:
        return no("RuntimeClassMissing", f"there is no RuntimeClass {made.runtime_class}: install the runtime, or take this class away")
    return yes("Offered")


def check_fits(spec: TaskSpec, offered: SandboxClass) -> None:
    """Refuse a task that asks for more than the class offers. Raises Refused("ClassTooSmall")."""
    if to_millis(spec.program.cpu) > offered.cpu or spec.program.memory > offered.memory:
        raise Refused("ClassTooSmall", f"the SandboxClass {offered.name} offers less than this task asks for")


def to_millis(quantity: Any) -> int:
    """Read processors as Kubernetes spells them ("2", "500m"). Raises InvalidInput("InvalidSize")."""
    match = _CPU.match(str(quantity))
    if match is None:
        raise InvalidInput("InvalidSize", f"write processors as 1 or 500m, not {quantity!r}")
    return int(match[1]) * (1 if match[2] else 1000)
