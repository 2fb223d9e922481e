"""`veilpod doctor`: read from a cluster what `findings` judges, try what can only be tried, leave nothing behind.

What is tried happens in one temporary namespace with the `restricted` Pod Security level, which is deleted at the end whatever happens.
"""

import asyncio
import contextlib
import json
import secrets
from collections.abc import AsyncIterator, Sequence
from typing import Any

from veilpod.client import findings, probes
from veilpod.client.findings import Finding
from veilpod.client.kubectl import Kubectl
from veilpod.errors import ClusterUnavailable, Refused, VeilpodError

_RIGHTS = (
    ("create", "customresourcedefinitions.apiextensions.k8s.io"),
    ("create", "validatingadmissionpolicies.admissionregistration.k8s.io"),
    ("create", "clusterroles.rbac.authorization.k8s.io"),
    ("create", "namespaces"),
)
_IMAGE_REMEDY = "give an image with python3 that the cluster can pull: --image"


async def examine(kubectl: Kubectl, *, image: str | None, runtime_classes: Sequence[str]) -> list[Finding]:
    """Check everything. Raises ClusterUnavailable when the cluster does not answer at all."""
    served = json.loads(await kubectl.ask("version", "--output", "json")).get("serverVersion", {})
    async with asyncio.TaskGroup() as group:
        reading = [
            group.create_task(part) for part in (_apis(kubectl), _nodes(kubectl), _classes(kubectl, runtime_classes), _rights(kubectl))
        ]
    found = [findings.version(served), *[finding for task in reading for finding in task.result()]]
    return [*found, *await _tried(kubectl, image)]


async def _apis(kubectl: Kubectl) -> list[Finding]:
    return [
        findings.admission(await kubectl.raw("/apis/admissionregistration.k8s.io/v1")),
        findings.kinds(await kubectl.raw("/apis/veilpod.dev/v1alpha1")),
    ]


async def _nodes(kubectl: Kubectl) -> list[Finding]:
    try:
        return findings.nodes(await kubectl.list_all("nodes"))
    except Refused:
        return [findings.skipped("Linux nodes", "you may not list nodes", "ask a cluster admin to run the doctor")]


async def _classes(kubectl: Kubectl, wanted: Sequence[str]) -> list[Finding]:
    try:
        installed = await kubectl.list_all("sandboxclasses.veilpod.dev") if await kubectl.raw("/apis/veilpod.dev/v1alpha1") else []
        named = [item["spec"]["runtimeClassName"] for item in installed if "runtimeClassName" in item["spec"]]
        present = await kubectl.list_all("runtimeclasses.node.k8s.io")
        storage = findings.storage(await kubectl.list_all("storageclasses.storage.k8s.io"))
    except Refused:
        return [findings.skipped("RuntimeClasses", "you may not list them", "ask a cluster admin to run the doctor")]
    return [*findings.runtime_classes(present, [*named, *wanted]), storage]


async def _rights(kubectl: Kubectl) -> list[Finding]:
    missing = []
    for verb, resource in _RIGHTS:
        if (await kubectl.run("auth", "can-i", verb, resource, "--all-namespaces")).stdout.strip() != "yes":
            missing.append(f"{verb} {resource.split('.')[0]}")
    return [findings.rights(missing)]


async def _tried(kubectl: Kubectl, image: str | None) -> list[Finding]:
    try:
        async with _namespace(kubectl) as inside:
            found = [await _dry_run_sidecar(inside), findings.pod_security(await _dry_run_privileged(inside))]
            if image is None:
                return [*found, findings.skipped("NetworkPolicy", "not tried without an image", _IMAGE_REMEDY)]
            return [*found, *await probes.network(inside, image)]
    except Refused as error:
        return [findings.skipped("admission and NetworkPolicy", str(error)[:120], "you need the right to create a namespace for a moment")]


@contextlib.asynccontextmanager
async def _namespace(kubectl: Kubectl) -> AsyncIterator[Kubectl]:
    name = f"veilpod-doctor-{secrets.token_hex(4)}"
    labels = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
    await kubectl.ask("create", "--filename", "-", text=json.dumps(body))
    inside = Kubectl(namespace=name, context=kubectl.context)
    try:
        yield inside
    finally:
        with contextlib.suppress(VeilpodError):
            await asyncio.shield(kubectl.ask("delete", "namespace", name, "--wait=false"))


async def _dry_run_sidecar(kubectl: Kubectl) -> Finding:
    pod = probes.pod("sequence", "image.invalid/none", command=["true"])
    pod["spec"]["initContainers"] = [{**pod["spec"]["containers"][0], "name": "sidecar", "restartPolicy": "Always"}]
    answer = await _created(kubectl, pod)
    return findings.sidecars(None if answer.code else json.loads(answer.stdout), refusal=answer.stderr)


async def _dry_run_privileged(kubectl: Kubectl) -> str | None:
    pod = probes.pod("privileged", "image.invalid/none", command=["true"])
    pod["spec"]["containers"][0]["securityContext"] = {"privileged": True}
    answer = await _created(kubectl, pod)
    return answer.stderr if answer.code else None


async def _created(kubectl: Kubectl, pod: dict[str, Any]) -> Any:
    # A new namespace has no default ServiceAccount for a moment, and pods are refused until it has.
    for _ in range(20):
        answer = await kubectl.run("create", "--dry-run=server", "--output", "json", "--filename", "-", text=json.dumps(pod))
        if not (answer.code and "serviceaccount" in answer.stderr.lower()):
            return answer
        await asyncio.sleep(0.5)
    raise ClusterUnavailable("the cluster does not make a ServiceAccount for a new namespace")
