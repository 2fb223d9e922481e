"""A Kubernetes API server over HTTP on loopback: discovery, chunked lists, watches, preconditions, statuses. Objects live in a FakeCluster.

`hiccup` answers the next request instead: (status, body, headers). What is not served answers 404 without a Status, as the real one does.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

from aiohttp import web
from tests.support.fake_cluster import FakeCluster

from veilpod.core.kinds import NAMESPACES, OWN_KINDS, PODS, Kind
from veilpod.errors import ClusterUnavailable

SERVED = (*OWN_KINDS.values(), PODS)
Hiccup = tuple[int, str, dict[str, str]]


class FakeApiServer:
    """Serves one FakeCluster: our own kinds, pods, and `more`."""

    def __init__(self, cluster: FakeCluster, *, chunk: int = 2, more: Sequence[Kind] = ()) -> None:
        self.cluster, self.chunk, self._kinds = cluster, chunk, (*SERVED, *more)
        self.hiccups: list[Hiccup] = []
        self.requests: list[tuple[str, str, dict[str, str], Any]] = []
        self.tokens: set[str] = set()
        self.port = 0

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["FakeApiServer"]:
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", self._answer)
        runner = web.AppRunner(application, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.port = runner.addresses[0][1]
        try:
            yield self
        finally:
            await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.tokens.add(request.headers.get("Authorization", ""))
        body = await request.json() if request.can_read_body else None
        self.requests.append((request.method, request.path, dict(request.query), body))
        if self.hiccups:
            status, text, headers = self.hiccups.pop(0)
            return web.Response(status=status, text=text, headers=headers)
        discovered = _discovery(request.path)
        if discovered is not None:
            return web.json_response(discovered)
        found = _resolve(request.path, self._kinds)
        if found is None:
            return web.Response(status=404, text="404 page not found")
        kind, namespace, name, sub = found
        try:
            return await self._serve(request, kind, namespace, name, sub, body)
        except ClusterUnavailable as error:
            return _status(409, "Conflict", str(error), name)

    async def _serve(self, request: web.Request, kind: Kind, namespace: str, name: str, sub: str, body: Any) -> web.StreamResponse:
        cluster = self.cluster
        match request.method:
            case "GET" if not name and request.query.get("watch") in ("1", "true"):
                return await self._watch(request, kind, namespace)
            case "GET" if not name:
                return self._list(request, kind, await cluster.list_all(kind, namespace=namespace or None, labels=_labels(request)))
            case "GET":
                found = await cluster.get(kind, name, namespace=namespace)
                return web.json_response(found) if found else _status(404, "NotFound", f"{name} not found", name)
            case "POST":
                if (kind.plural, namespace, body["metadata"]["name"]) in cluster.objects:
                    return _status(409, "AlreadyExists", "already exists", body["metadata"]["name"])
                return web.json_response(await cluster.create(kind, body, namespace=namespace), status=201)
            case "DELETE":
                gone = not await cluster.delete(kind, name, uid=body["preconditions"]["uid"], namespace=namespace)
                return _status(404, "NotFound", "not found", name) if gone else web.json_response({"kind": "Status", "status": "Success"})
            case "PATCH" if (kind.plural, namespace, name) not in cluster.objects:
                return _status(404, "NotFound", "not found", name)
            case "PATCH" if sub == "status":
                return web.json_response(await cluster.patch_status(kind, name, body["status"], namespace=namespace))
            case "PATCH":
                metadata = body["metadata"]
                changed = await cluster.set_finalizers(
                    kind,
                    name,
                    metadata["finalizers"],
                    resource_version=metadata["resourceVersion"],
                    uid=metadata["uid"],
                    namespace=namespace,
                )
                return web.json_response(changed or {"kind": "Status", "status": "Success"})
        return _status(405, "MethodNotAllowed", "no", name)

    def _list(self, request: web.Request, kind: Kind, items: list[dict[str, Any]]) -> web.Response:
        start = int(request.query.get("continue", "0"))
        page = items[start : start + self.chunk] if "limit" in request.query else items[start:]
        metadata: dict[str, Any] = {"resourceVersion": "1"}
        if start + len(page) < len(items):
            metadata["continue"] = str(start + len(page))
        return web.json_response({"kind": f"{kind.name}List", "apiVersion": kind.api_version, "metadata": metadata, "items": page})

    async def _watch(self, request: web.Request, kind: Kind, namespace: str) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            async for change, item in self.cluster.watch(kind, namespace=namespace, labels=_labels(request)):
                if change != "LISTED":
                    await response.write(json.dumps({"type": change, "object": item}).encode() + b"\n")
        return response


def _resolve(path: str, kinds: Sequence[Kind]) -> tuple[Kind, str, str, str] | None:
    for kind in kinds:
        root = f"/apis/{kind.group}/{kind.version}/" if kind.group else f"/api/{kind.version}/"
        if not path.startswith(root):
            continue
        parts = path.removeprefix(root).split("/")
        namespace = ""
        if parts[0] == "namespaces" and len(parts) > 2:
            namespace, parts = parts[1], parts[2:]
        if parts[0] == kind.plural:
            name, sub = ([*parts[1:], "", ""])[:2]
            return kind, namespace, name, sub
    return None


# kopf wants to know of these, and asks for none of their objects.
_BACKBONE = (
    NAMESPACES,
    Kind(group="", version="v1", plural="events", name="Event"),
    Kind(group="apiextensions.k8s.io", version="v1", plural="customresourcedefinitions", name="CustomResourceDefinition", namespaced=False),
)


def _discovery(path: str) -> dict[str, Any] | None:
    kinds = (*SERVED, *_BACKBONE)
    if path == "/api":
        return {"kind": "APIVersions", "versions": ["v1"]}
    if path == "/apis":
        versions = {kind.group: {"groupVersion": kind.api_version, "version": kind.version} for kind in kinds if kind.group}
        groups = [{"name": group, "versions": [version], "preferredVersion": version} for group, version in versions.items()]
        return {"kind": "APIGroupList", "groups": groups}
    for version in {kind.api_version for kind in kinds}:
        if path == (f"/apis/{version}" if "/" in version else f"/api/{version}"):
            resources = [_resource(kind) for kind in kinds if kind.api_version == version]
            return {"kind": "APIResourceList", "groupVersion": version, "resources": resources}
    return None


def _resource(kind: Kind) -> dict[str, Any]:
    verbs = ["get", "list", "watch", "patch", "create", "delete"]
    return {"name": kind.plural, "singularName": kind.name.lower(), "kind": kind.name, "namespaced": kind.namespaced, "verbs": verbs}


def _labels(request: web.Request) -> dict[str, str]:
    selector = request.query.get("labelSelector", "")
    return dict(item.split("=", 1) for item in selector.split(",") if item)


def _status(code: int, reason: str, message: str, name: str) -> web.Response:
    body = {"kind": "Status", "status": "Failure", "reason": reason, "message": message, "code": code, "details": {"name": name}}
    return web.json_response(body, status=code)
