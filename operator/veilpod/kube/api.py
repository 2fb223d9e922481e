"""The Kubernetes API as raw JSON over one HTTP session: the adapter behind `ports.Cluster`.

Typed client models cost five times the CPU of plain JSON and a third of a second at import, so there are none here; bodies
are parsed into values by who reads them. Deletions carry the UID and are never forced. "Not there" is believed only when the
API server says so about the very name that was asked for: a missing CRD, a proxy's 404 or a timeout is an unanswered question.
"""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import aiohttp

from veilpod.core.kinds import Kind
from veilpod.errors import ClusterUnavailable, InvalidInput, NotServed, Refused, VeilpodError
from veilpod.kube.connection import Connection

FIELD_MANAGER = "veilpod"
_CHUNK = 250
_LIST_ATTEMPTS = 3
_WATCH_SECONDS = 240
_APPLY, _MERGE = "application/apply-patch+yaml", "application/merge-patch+json"

Object = dict[str, Any]


class _NotFoundError(Exception):
    """The API server's own word that this name is not there. Never leaves this module."""


class _ConflictError(Exception):
    """409. Never leaves this module."""

    def __init__(self, message: str, *, exists: bool) -> None:
        super().__init__(message)
        self.exists = exists


class KubeApi:
    """An open session. Use `async with KubeApi(connection) as api`, or call `close`."""

    def __init__(self, connection: Connection, *, timeout: float = 15.0, parallel: int = 32) -> None:
        self._connection = connection
        self._timeout = timeout
        self._parallel = parallel
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> "KubeApi":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the session. A later call opens a new one."""
        session, self._session = self._session, None
        if session:
            await session.close()

    async def get(self, kind: Kind, name: str, *, namespace: str | None = None) -> Object | None:
        try:
            return await self._call("GET", _path(kind, namespace, name), name=name)
        except _NotFoundError:
            return None

    async def list_all(self, kind: Kind, *, namespace: str | None = None, labels: Mapping[str, str] | None = None) -> list[Object]:
        items, _ = await self._list(kind, namespace, labels)
        return items

    async def create(self, kind: Kind, body: Mapping[str, Any], *, namespace: str | None = None, exists_ok: bool = False) -> Object:
        name = body["metadata"]["name"]
        try:
            return await self._call("POST", _path(kind, namespace), body=_typed(kind, body), query={"fieldManager": FIELD_MANAGER})
        except _ConflictError as conflict:
            if not (exists_ok and conflict.exists):
                raise ClusterUnavailable(f"cannot create {kind.name}: {conflict}") from conflict
        except _NotFoundError as error:  # the namespace
            raise ClusterUnavailable(f"cannot create {kind.name}: {error}") from error
        existing = await self.get(kind, name, namespace=namespace)
        if existing is None:
            raise ClusterUnavailable(f"{kind.name} was there and is gone again")
        return existing

    async def apply(self, kind: Kind, body: Mapping[str, Any], *, namespace: str | None = None) -> Object:
        name = body["metadata"]["name"]
        return await self._patch(kind, _path(kind, namespace, name), name, _typed(kind, body), _APPLY, force=True)

    async def delete(self, kind: Kind, name: str, *, uid: str, namespace: str | None = None, resource_version: str | None = None) -> bool:
        preconditions = {"uid": uid} | ({"resourceVersion": resource_version} if resource_version else {})
        body = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": preconditions, "propagationPolicy": "Background"}
        try:
            await self._call("DELETE", _path(kind, namespace, name), body=body, name=name)
        except _NotFoundError:
            return False
        except _ConflictError as conflict:
            # Another UID bears the name now, or the object changed: the caller has to look again before it says "gone".
            raise ClusterUnavailable(f"{kind.name} changed under us: {conflict}") from conflict
        return True

    async def patch_status(self, kind: Kind, name: str, status: Mapping[str, Any], *, namespace: str | None = None) -> Object:
        path = _path(kind, namespace, name) + "/status"
        return await self._patch(kind, path, name, {"status": status}, _MERGE)

    async def set_finalizers(
        self, kind: Kind, name: str, finalizers: Sequence[str], *, resource_version: str, uid: str, namespace: str | None = None
    ) -> Object | None:
        metadata = {"finalizers": list(finalizers), "resourceVersion": resource_version, "uid": uid}
        path = _path(kind, namespace, name)
        try:
            return await self._call("PATCH", path, body={"metadata": metadata}, content_type=_MERGE, name=name)
        except _NotFoundError:
            return None
        except _ConflictError as conflict:
            raise ClusterUnavailable(f"{kind.name} changed under us: {conflict}") from conflict

    async def watch(
        self, kind: Kind, *, namespace: str | None = None, labels: Mapping[str, str] | None = None
    ) -> AsyncIterator[tuple[str, Object]]:
        while True:
            items, version = await self._list(kind, namespace, labels)
            for item in items:
                yield "LISTED", item
            # A broken or expired watch falls through to the next list: a hint may be late, never lost.
            async for change, item in self._watch_from(kind, namespace, labels, version):
                yield change, item

    # -- lists and watches

    async def _list(self, kind: Kind, namespace: str | None, labels: Mapping[str, str] | None) -> tuple[list[Object], str]:
        for _ in range(_LIST_ATTEMPTS):
            answer = await self._list_once(kind, namespace, labels)
            if answer is not None:
                return answer
        raise ClusterUnavailable(f"the list of {kind.plural} expired {_LIST_ATTEMPTS} times while it was read")

    async def _list_once(self, kind: Kind, namespace: str | None, labels: Mapping[str, str] | None) -> tuple[list[Object], str] | None:
        items: list[Object] = []
        query = {"limit": str(_CHUNK)} | _selector(labels)
        while True:
            try:
                page = await self._call("GET", _path(kind, namespace), query=query)
            except _ExpiredError:
                return None  # the continue token expired: half a list is no list
            except _NotFoundError as error:
                raise NotServed(f"{kind.plural} are not served here: {error}") from error
            if not isinstance(page.get("items"), list) or not isinstance(page.get("metadata"), dict):
                raise ClusterUnavailable(f"the API server's answer is no list of {kind.plural}")
            items += page["items"]
            following = page["metadata"].get("continue")
            if not following:
                return items, page["metadata"].get("resourceVersion", "")
            query = query | {"continue": following}

    async def _watch_from(
        self, kind: Kind, namespace: str | None, labels: Mapping[str, str] | None, version: str
    ) -> AsyncIterator[tuple[str, Object]]:
        query = {"watch": "1", "allowWatchBookmarks": "true", "resourceVersion": version} | _selector(labels)
        query["timeoutSeconds"] = str(_WATCH_SECONDS)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=self._timeout, sock_read=_WATCH_SECONDS + 30)
        try:
            url = self._url(_path(kind, namespace))
            async with self._open().get(url, params=query, headers=self._headers(), timeout=timeout) as response:
                if response.status != 200:
                    raise ClusterUnavailable(f"cannot watch {kind.plural}: HTTP {response.status}")
                async for line in _lines(response.content):
                    change = json.loads(line)
                    if change["type"] == "ERROR":
                        return
                    if change["type"] != "BOOKMARK":
                        yield change["type"], change["object"]
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError, KeyError) as error:
            raise ClusterUnavailable(f"the watch of {kind.plural} broke: {type(error).__name__}") from error

    # -- one request

    async def _patch(self, kind: Kind, path: str, name: str, body: Mapping[str, Any], content_type: str, *, force: bool = False) -> Object:
        query = {"fieldManager": FIELD_MANAGER} | ({"force": "true"} if force else {})
        try:
            return await self._call("PATCH", path, body=body, query=query, content_type=content_type, name=name)
        except (_NotFoundError, _ConflictError) as error:
            raise ClusterUnavailable(f"{kind.name} changed under us: {error}") from error

    async def _call(
        self,
        method: str,
        path: str,
        *,
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, str] | None = None,
        content_type: str = "application/json",
        name: str | None = None,
    ) -> Object:
        headers = self._headers() | ({"Content-Type": content_type} if body is not None else {})
        data = json.dumps(body, separators=(",", ":")).encode() if body is not None else None
        try:
            async with (
                asyncio.timeout(self._timeout),
                self._open().request(method, self._url(path), params=query, data=data, headers=headers) as response,
            ):
                raw = await response.read()
                status, retry_after = response.status, response.headers.get("Retry-After", "")
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise ClusterUnavailable(f"the Kubernetes API did not answer: {type(error).__name__}") from error
        answer = _parse(raw)
        if 200 <= status < 300 and answer is not None:
            return answer
        raise _failure(status, answer or {}, retry_after, name)

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            context: ssl.SSLContext | bool = self._connection.ssl_context() or True
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=self._parallel, ssl=context))
        return self._session

    def _headers(self) -> dict[str, str]:
        token = self._connection.bearer()
        return {"Accept": "application/json", "User-Agent": "veilpod"} | ({"Authorization": f"Bearer {token}"} if token else {})

    def _url(self, path: str) -> str:
        return self._connection.server.rstrip("/") + path


class _ExpiredError(VeilpodError):
    """410: the resource version or continue token is too old."""


def _failure(status: int, answer: Object, retry_after: str, name: str | None) -> Exception:
    message = str(answer.get("message") or f"HTTP {status}")[:500]
    reason = str(answer.get("reason") or "")
    if status == 404:
        # Only a Status about this very name is an answer; a 404 page means that nobody serves the kind (yet).
        details = answer.get("details") or {}
        if reason == "NotFound" and (name is None or details.get("name") == name):
            return _NotFoundError(message)
        return NotServed(f"the Kubernetes API does not serve this: {message}", retry_after=10)
    if status == 409:
        return _ConflictError(message, exists=reason == "AlreadyExists")
    if status == 410:
        return _ExpiredError(message)
    if status == 403:
        return Refused("Forbidden", f"the operator's role does not allow this, or an admission policy refused it: {message}")
    if status in (400, 405, 406, 413, 415, 422):
        return InvalidInput(reason or "Invalid", message)
    seconds = float(retry_after) if retry_after.isdigit() else None
    return ClusterUnavailable(f"the Kubernetes API answered {status}: {message}", retry_after=seconds)


def _parse(raw: bytes) -> Object | None:
    try:
        value = json.loads(raw)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _path(kind: Kind, namespace: str | None, name: str | None = None) -> str:
    root = f"/apis/{kind.group}/{kind.version}" if kind.group else f"/api/{kind.version}"
    if kind.namespaced and not namespace:
        raise InvalidInput("NoNamespace", f"{kind.name} is namespaced")
    place = f"/namespaces/{namespace}" if kind.namespaced else ""
    return f"{root}{place}/{kind.plural}" + (f"/{name}" if name else "")


def _typed(kind: Kind, body: Mapping[str, Any]) -> Object:
    return {"apiVersion": kind.api_version, "kind": kind.name} | dict(body)


def _selector(labels: Mapping[str, str] | None) -> dict[str, str]:
    return {"labelSelector": ",".join(f"{key}={value}" for key, value in sorted(labels.items()))} if labels else {}


async def _lines(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Split a watch into lines of any length (StreamReader.readline refuses long ones)."""
    rest = b""
    async for chunk in content.iter_any():
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            if line.strip():
                yield line
