"""Who wrote to the API server, from its own audit log: one line per write, with the user that the API server authenticated."""

import collections
import dataclasses
import json
import pathlib
from collections.abc import Iterable

_WRITES = frozenset({"create", "update", "patch", "delete", "deletecollection"})


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """One request that was to change something, whether it was granted or not."""

    at: str  # RFC 3339, when the API server received it
    user: str
    verb: str
    resource: str  # with its subresource, as in "pods/status"
    namespace: str
    name: str
    code: int


class AuditLog:
    """The log of a running cluster, read on from where the last look ended."""

    def __init__(self, file: pathlib.Path) -> None:
        self._file = file
        self._offset = file.stat().st_size

    def news(self) -> list[Write]:
        """What was written since the last look, oldest first."""
        with self._file.open("rb") as log:
            log.seek(self._offset)
            data = log.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        return list(parse(whole.decode().splitlines()))


def parse(lines: Iterable[str]) -> Iterable[Write]:
    """Read audit events of writes; requests that are no writes, or of no resource, are left out."""
    for line in lines:
        event = json.loads(line)
        about = event.get("objectRef")
        if event["verb"] not in _WRITES or about is None:
            continue
        sub = about.get("subresource")
        yield Write(
            at=event["requestReceivedTimestamp"],
            user=event["user"]["username"],
            verb=event["verb"],
            resource=about["resource"] + (f"/{sub}" if sub else ""),
            namespace=about.get("namespace", ""),
            name=about.get("name", ""),
            code=event.get("responseStatus", {}).get("code", 0),
        )


def by_hand(writes: Iterable[Write], operators: Iterable[str]) -> tuple[collections.Counter[str], collections.Counter[str]]:
    """Count writes by "verb resource": those of our operators (namespaces), and everybody else's (the cluster's own and the user's)."""
    ours: collections.Counter[str] = collections.Counter()
    others: collections.Counter[str] = collections.Counter()
    names = {f"system:serviceaccount:{namespace}:{namespace}-operator" for namespace in operators}
    for write in writes:
        (ours if write.user in names else others)[f"{write.verb} {write.resource}"] += 1
    return ours, others
