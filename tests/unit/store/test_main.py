"""The store as a process: its arguments, its probes on both families, its end."""

import base64
import pathlib
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request

import pytest
from tests.support import stores

from veilpod.net.control import control_certificate
from veilpod.store.__main__ import main

CERTIFICATE = base64.b64encode(control_certificate(stores.KEYS.control)).decode()


def test_a_wrong_certificate_is_a_mistake_of_a_person(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--data", str(tmp_path)])
    assert stopped.value.code == 2
    assert "--operator-cert" in capsys.readouterr().err


def test_the_process_serves_its_probes_and_ends_at_sigterm(tmp_path: pathlib.Path) -> None:
    ports = [_free_port() for _ in range(4)]
    command = [
        sys.executable, "-m", "veilpod.store", "--data", str(tmp_path), "--operator-cert", CERTIFICATE,
        "--listen", f"127.0.0.1:{ports[0]}", "--control", f"127.0.0.1:{ports[1]}", "--upload", f"127.0.0.1:{ports[2]}",
        "--metrics", f":{ports[3]}",
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        _wait_until_open(ports[3], process)
        with urllib.request.urlopen(f"http://127.0.0.1:{ports[3]}/healthz", timeout=5) as answer:
            assert answer.status == 200
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"http://127.0.0.1:{ports[3]}/readyz", timeout=5)
        assert refused.value.code == 503
        refused.value.close()
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=10)
        assert (process.returncode, errors) == (0, "")
    finally:
        process.kill()
        process.communicate()


def _wait_until_open(port: int, process: "subprocess.Popen[str]") -> None:
    while process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
    raise AssertionError(process.stderr.read() if process.stderr else "")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
