"""What the API server said of the sandbox pods, while it happened: the only moment in which their end can be seen.

A watch on every sandbox namespace writes each event to build/demo/pods.jsonl; `lives` folds them into one record per pod UID.
"""

import contextlib
import datetime
import json
import pathlib
import subprocess
import threading
from collections.abc import Iterator
from typing import Any

from demo.cluster import Cluster
from localcluster import waiting


@contextlib.contextmanager
def watched(cluster: Cluster, namespaces: list[str], file: pathlib.Path) -> Iterator[None]:
    """Record pod events of these namespaces while the body runs."""
    file.write_text("")
    lock = threading.Lock()
    watches = [_Watch(cluster, namespace) for namespace in namespaces]
    threads = [threading.Thread(target=watch.record, args=(file, lock), daemon=True) for watch in watches]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for watch in watches:
            watch.end()
        for thread in threads:
            thread.join(timeout=10)


class _Watch:
    """kubectl's watch of a namespace's pods. The API server ends it after half an hour or more: then there is another one."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self._command = ["kubectl", "get", "pods", "-n", namespace, "--watch", "--output-watch-events", "-o", "json"]
        self._environment = cluster.environment
        self._lock, self._over, self._running = threading.Lock(), False, self._start()

    def _start(self) -> "subprocess.Popen[str]":
        return subprocess.Popen(self._command, env=self._environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)

    def record(self, file: pathlib.Path, lock: threading.Lock) -> None:
        """Write every event to a file until the watch is over."""
        while True:
            with self._running as watch:
                _record(watch, file, lock)
            with self._lock:
                if self._over:
                    return
                waiting.pause(0.2)
                self._running = self._start()

    def end(self) -> None:
        with self._lock:
            self._over = True
            self._running.terminate()


def _record(watch: subprocess.Popen[str], file: pathlib.Path, lock: threading.Lock) -> None:
    """Cut kubectl's stream of objects (on one line or many, by version) into lines, with the time each arrived."""
    decoder, text = json.JSONDecoder(), ""
    for line in watch.stdout or ():
        text += line
        if not line.rstrip().endswith("}"):
            continue
        with contextlib.suppress(json.JSONDecodeError):
            event, _ = decoder.raw_decode(text.lstrip())
            now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
            with lock, file.open("a") as output:
                output.write(json.dumps({"time": now, "event": event}) + "\n")
            text = ""


def lives(file: pathlib.Path) -> list[dict[str, Any]]:
    """Fold the events into one record per pod: creation, every container's end, the kubelet's last word, gone."""
    found: dict[str, dict[str, Any]] = {}
    for line in file.read_text().splitlines():
        record = json.loads(line)
        pod = record["event"]["object"]
        meta, status = pod["metadata"], pod.get("status", {})
        life = found.setdefault(
            meta["uid"],
            {
                "uid": meta["uid"],
                "namespace": meta["namespace"],
                "created": meta["creationTimestamp"],
                "runtimeClass": pod["spec"].get("runtimeClassName", ""),
            },
        )
        statuses = [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]
        if meta.get("deletionTimestamp") and statuses and all(_dead(s) for s in statuses):
            life.setdefault("containersTerminated", record["time"])
            life["containers"] = {s["name"]: s["state"].get("terminated", {}).get("reason", "never started") for s in statuses}
        if meta.get("deletionTimestamp"):
            life.setdefault("deleted", meta["deletionTimestamp"])
            if meta.get("deletionGracePeriodSeconds") == 0:
                life.setdefault("nodeConfirmed", record["time"])
        if record["event"]["type"] == "DELETED":
            life["gone"] = record["time"]
    return list(found.values())


def _dead(status: dict[str, Any]) -> bool:
    """Whether a container has ended, or never began: its pod was deleted before its turn."""
    return "terminated" in status["state"] or ("waiting" in status["state"] and not status.get("containerID"))
