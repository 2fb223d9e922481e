"""When things of objects were first seen to be so, by one watcher for all of them: a time span between two moments has one clock.

A watch is `kubectl get --raw …?watch=1`: the API server's own stream, one JSON document a line, stamped when it arrives.
"""

import contextlib
import json
import subprocess
import threading
import time
from collections.abc import Iterator
from typing import Any

from demo.cluster import Cluster

from localcluster import progress

APPLIED, DELETED, GONE = "applied", "deleted", "gone"
TASKS = "/apis/veilpod.dev/v1alpha1/namespaces/{}/computetasks"
ASSIGNMENTS = "/apis/veilpod.dev/v1alpha1/namespaces/{}/taskassignments"
JOBS = "/apis/batch/v1/namespaces/{}/jobs"


class Moments:
    """First moments by name of the object: `applied`, every condition that became True, `deleted`, `gone`. Seconds of one clock."""

    def __init__(self) -> None:
        self._seen: dict[str, dict[str, float]] = {}
        self._news = threading.Condition()
        self._why: dict[str, str] = {}
        self._ids: dict[str, str] = {}

    def see(self, event: dict[str, Any], at: float) -> None:
        """Take one watch event."""
        body = event["object"]
        metadata = body["metadata"]
        found = {APPLIED} | ({DELETED} if "deletionTimestamp" in metadata else set()) | ({GONE} if event["type"] == "DELETED" else set())
        status = body.get("status") or {}
        found |= {item["type"] for item in status.get("conditions", ()) if item["status"] == "True"}
        with self._news:
            known = self._seen.setdefault(metadata["name"], {})
            for what in found:
                known.setdefault(what, at)
            if "failure" in status:
                self._why[metadata["name"]] = str(status["failure"].get("code"))
            if "taskId" in status:
                self._ids[metadata["name"]] = status["taskId"]
            self._news.notify_all()

    def has(self, name: str, what: str) -> bool:
        """Whether it was seen."""
        return what in self._seen.get(name, {})

    def failure(self, name: str) -> str:
        """The code with which a task failed, or nothing."""
        return self._why.get(name, "")

    def assignment(self, task: str, index: int = 0) -> str:
        """The name of a task's TaskAssignment. Raises KeyError before the task is on chain."""
        return f"ta-{self._ids[task][2:18]}-{index}"

    def span(self, name: str, first: str, last: str, *, of: str = "") -> float:
        """Seconds from one moment of an object to another, its own or that `of` a second one. Raises KeyError for what was not seen."""
        return self._seen[of or name][last] - self._seen[name][first]

    def wait(self, name: str, what: str, *, timeout: float) -> None:
        """Wait until it is seen. Raises Failure."""
        with self._news:
            if not self._news.wait_for(lambda: self.has(name, what), timeout):
                seen = ", ".join(self._seen.get(name, {})) or "nothing"
                raise progress.Failure(f"{name} is not {what} in {timeout:.0f} s; seen: {seen} {self.failure(name)}")


@contextlib.contextmanager
def watched(cluster: Cluster, *paths: str) -> Iterator[Moments]:
    """Watch these collections while the body runs. Names must not meet."""
    moments = Moments()
    watches, threads = [], []
    for path in paths:
        command = ["kubectl", "get", "--raw", f"{path}?watch=1"]
        watch = subprocess.Popen(command, env=cluster.environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        watches.append(watch)
        threads.append(threading.Thread(target=_follow, args=(watch, moments), daemon=True))
    for thread in threads:
        thread.start()
    try:
        yield moments
    finally:
        for watch in watches:
            watch.terminate()
        for watch, thread in zip(watches, threads, strict=True):
            watch.wait()
            thread.join(timeout=10)


def _follow(watch: "subprocess.Popen[str]", moments: Moments) -> None:
    for line in watch.stdout or ():
        moments.see(json.loads(line), time.monotonic())
