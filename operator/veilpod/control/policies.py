"""The fences around our sandboxes, as the API server holds them: what is in force, as one hash that statements attest.

Network policies of the sandbox namespace, the namespace's own labels, and (for classes that deny host access) the admission policies with
their bindings. What should be there and is not is named; whoever asks refuses keys then. Paper step 4, claims T0 and T2.
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
_LABEL = "veilpod.dev/sandboxes"


async def observe_policies(context: Context, *, deny_host_access: bool) -> Policies:
    """Read every fence. Raises Transient: not seen is not missing."""
    namespace = context.config.sandbox_namespace
    wanted: list[tuple[Kind, str]] = [(NAMESPACES, namespace)]
    if deny_host_access:
        wanted += [(kind, name) for name in ADMISSION for kind in (ADMISSION_POLICIES, ADMISSION_BINDINGS)]
    network, *found = await together(
        context.cluster.list_all(NETWORK_POLICIES, namespace=namespace), *(context.cluster.get(kind, name) for kind, name in wanted)
    )
    missing = [f"NetworkPolicy {name}" for name in NETWORK if name not in {item["metadata"]["name"] for item in network}]
    missing += [f"{kind.name} {name}" for (kind, name), body in zip(wanted, found, strict=True) if not _in_force(kind, body)]
    return Policies(digest=policies_digest(network, [body for body in found if body]), missing=tuple(missing))


def policies_digest(network: list[dict[str, Any]], others: list[dict[str, Any]]) -> bytes:
    """Hash names and meanings, not what the API server adds. 32 bytes."""
    items = [["NetworkPolicy", item["metadata"]["name"], _exact(item.get("spec"))] for item in network]
    items += [[body.get("kind", ""), body["metadata"]["name"], _exact(_meaning(body))] for body in others]
    return keccak256(b"veilpod.policies.v1\0" + canonical(sorted(items, key=lambda item: (item[0], item[1]))))


def _in_force(kind: Kind, body: Mapping[str, Any] | None) -> bool:
    if body is None:
        return False
    if kind is NAMESPACES:
        return (body["metadata"].get("labels") or {}).get(_LABEL) == "true"
    if kind is ADMISSION_BINDINGS:
        return "Deny" in (body["spec"].get("validationActions") or [])
    return bool(body["spec"].get("failurePolicy", "Fail") == "Fail")


def _meaning(body: Mapping[str, Any]) -> Any:
    if body.get("kind") == "Namespace":
        return {"label": (body["metadata"].get("labels") or {}).get(_LABEL)}
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
