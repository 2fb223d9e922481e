"""The fences around our sandboxes, as the API server holds them: what is in force, as one hash that statements attest.

Network policies of the sandbox namespace, the namespace's own labels, and (for classes that deny host access) the admission policies with
their bindings. What should be there and is not is named, and so is what opens what they close; whoever asks refuses keys then. What an
admission policy says is believed as it stands before a sandbox states it, and must not change afterwards. Paper step 4, claims T0 and T2.
"""

from collections.abc import Mapping
from typing import Any

from veilpod.control.context import Context
from veilpod.control.status import together
from veilpod.core.canonical import canonical, keccak256
from veilpod.core.kinds import ADMISSION_BINDINGS, ADMISSION_POLICIES, NAMESPACES, NETWORK_POLICIES, Kind
from veilpod.core.task.snapshot import Policies

NETWORK = ("default-deny", "to-relays", "from-operator")
ADMISSION = (
    "veilpod-sandbox-fence",
    "veilpod-sandbox-access",
    "veilpod-sandbox-pods",
    "veilpod-sandbox-evidence",
    "veilpod-sandbox-namespace",
)
_LABELS = {"veilpod.dev/sandboxes": "true", "pod-security.kubernetes.io/enforce": "restricted"}
_LEVEL = "pod-security.kubernetes.io/enforce-version"  # an old version of the level would forbid less


async def observe_policies(context: Context, *, deny_host_access: bool) -> Policies:
    """Read every fence. Raises Transient: not seen is not missing."""
    namespace = context.config.sandbox_namespace
    wanted: list[tuple[Kind, str]] = [(NAMESPACES, namespace)]
    if deny_host_access:
        wanted += [(kind, name) for name in ADMISSION for kind in (ADMISSION_POLICIES, ADMISSION_BINDINGS)]
    network, *found = await together(
        context.cluster.list_all(NETWORK_POLICIES, namespace=namespace), *(context.cluster.get(kind, name) for kind, name in wanted)
    )
    missing = _network_holes(network)
    missing += [f"{kind.name} {name}" for (kind, name), body in zip(wanted, found, strict=True) if not _in_force(kind, body)]
    digest = policies_digest(network, [body for body in found if body])
    return Policies(digest=digest, missing=tuple(missing), host_access_denied=deny_host_access)


def policies_digest(network: list[dict[str, Any]], others: list[dict[str, Any]]) -> bytes:
    """Hash names and meanings, not what the API server adds. 32 bytes."""
    items = [["NetworkPolicy", item["metadata"]["name"], _exact(item.get("spec"))] for item in network]
    items += [[body.get("kind", ""), body["metadata"]["name"], _exact(_meaning(body))] for body in others]
    return keccak256(b"veilpod.policies.v1\0" + canonical(sorted(items, key=lambda item: (item[0], item[1]))))


def _network_holes(network: list[dict[str, Any]]) -> list[str]:
    """NetworkPolicies only add up: what denies must deny everything, and no stranger's may allow anything."""
    specs = {item["metadata"]["name"]: item.get("spec") or {} for item in network}
    holes = [f"NetworkPolicy {name}" for name in NETWORK if name not in specs]
    deny = specs.get(NETWORK[0])
    if deny is not None and (deny.get("podSelector") or _allows(deny) or set(deny.get("policyTypes") or ()) != {"Ingress", "Egress"}):
        holes.append(f"NetworkPolicy {NETWORK[0]} (it does not deny everything)")
    strange = sorted(name for name, spec in specs.items() if name not in NETWORK and _allows(spec))
    return holes + [f"NetworkPolicy {name} (not of this release, and it allows something)" for name in strange]


def _allows(spec: Mapping[str, Any]) -> bool:
    return bool(spec.get("ingress") or spec.get("egress"))


def _in_force(kind: Kind, body: Mapping[str, Any] | None) -> bool:
    if body is None:
        return False
    if kind is NAMESPACES:
        labels = body["metadata"].get("labels") or {}
        return "deletionTimestamp" not in body["metadata"] and _LABELS.items() <= labels.items()
    spec = body["spec"]
    if kind is ADMISSION_BINDINGS:
        # Bound to its policy, whole: what narrows a binding lets somebody through.
        whole = spec.get("policyName") == body["metadata"]["name"] and not spec.get("matchResources") and not spec.get("paramRef")
        return whole and "Deny" in (spec.get("validationActions") or [])
    return bool(spec.get("failurePolicy", "Fail") == "Fail" and spec.get("validations"))


def _meaning(body: Mapping[str, Any]) -> Any:
    if body.get("kind") == "Namespace":
        labels = body["metadata"].get("labels") or {}
        return {name: labels.get(name) for name in (*_LABELS, _LEVEL)}
    return body.get("spec")


def _exact(value: Any) -> Any:
    """JSON without floats, which have no canonical spelling."""
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, dict):
        return {name: _exact(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_exact(item) for item in value]
    return value
