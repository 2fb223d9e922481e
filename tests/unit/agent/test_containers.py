"""Our containers as processes: exit codes, the one word, signals, and a second life that does not begin."""

import base64
import contextlib
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator

import pytest
from tests.support.netguards import Fence, fence

from veilpod.core.canary import Canary
from veilpod.core.keys import SigningKey, node_keys
from veilpod.net.control import control_certificate

ROOT = pathlib.Path(__file__).parents[3]
CERTIFICATE = base64.b64encode(control_certificate(node_keys(SigningKey(secret=b"\x07" * 32)).control)).decode()


@pytest.fixture
def standing() -> Iterator[Fence]:
    with fence() as built:
        yield built


def agent(*arguments: str, code: str = "") -> subprocess.Popen[bytes]:
    start = ["-c", code] if code else ["-m", "veilpod.agent"]
    environment = {"PYTHONPATH": str(ROOT / "operator"), "PATH": os.environ["PATH"]}
    return subprocess.Popen([sys.executable, *start, *arguments], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def finish(process: subprocess.Popen[bytes], seconds: float = 30) -> tuple[int, bytes]:
    try:
        output, _ = process.communicate(timeout=seconds)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.wait()
    return process.returncode, output


def endpoint(address: tuple[str, int]) -> str:
    return f"{address[0]}:{address[1]}"


RUN = """
import dataclasses, pathlib, sys
from veilpod.agent import __main__, settings
root = pathlib.Path(sys.argv[1])
for name in ("in", "out", "scratch", "bin", "program", "seal", "life", "pod"):
    (root / name).mkdir(exist_ok=True)
(root / "launch").write_bytes(b"launcher")
real = __main__._settings
def elsewhere(options):
    paths = dict(inputs=root / "in", outputs=root / "out", scratch=root / "scratch", binaries=root / "bin", launcher=root / "launch")
    paths |= dict(program_socket=str(root / "program" / "s"), seal_socket=str(root / "seal" / "s"), marker=root / "life" / "born")
    paths |= dict(pod_uid=root / "pod" / "uid")
    return dataclasses.replace(real(options), **paths)
__main__._settings = elsewhere
sys.exit(__main__.main(sys.argv[2:]))
"""


# As in a pod: the agent's user, not root. Modules are loaded before, for a developer's Python may lie in root's home.
BECOME_NOBODY = """
import os, shutil
import veilpod.agent.__main__, veilpod.agent.service, veilpod.net.demonstration
os.setgroups([]); os.setgid(65532); os.setuid(65532)
"""


def run_agent(root: pathlib.Path, standing: Fence, *more: str, code: str = RUN, canary: Canary | None = None) -> subprocess.Popen[bytes]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    guard = ["--allow", endpoint(standing.peer), "--canary", (canary or standing.canary).spell()]
    control = [f"--control=127.0.0.1:{port}", "--ready=127.0.0.1:7444"]
    return agent(str(root), "run", "--operator-cert", CERTIFICATE, *control, *more, *guard, code=code)


def lines_until(process: subprocess.Popen[bytes], event: bytes) -> list[bytes]:
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line)
        if event in line:
            return seen
    raise AssertionError(seen)


def test_an_agent_is_born_once_ends_at_sigterm_and_leaves_nothing(standing: Fence, tmp_path: pathlib.Path) -> None:
    first = run_agent(tmp_path, standing)
    hardened = b"".join(lines_until(first, b"agent.hardened"))
    assert b'"dumpable": false' in hardened
    assert b'"kernel": "SHARED"' in hardened
    lines_until(first, b"agent.listening")
    (tmp_path / "in" / "secret").write_bytes(b"plaintext")
    first.send_signal(signal.SIGTERM)
    code, output = finish(first, 10)
    assert (code, b"agent.ended" in output) == (0, True)
    assert list((tmp_path / "in").iterdir()) == []

    code, output = finish(run_agent(tmp_path, standing), 10)
    assert code == 30
    assert b"AgentRestarted" in output


def test_an_agent_whose_fence_does_not_hold_ends_before_it_listens_and_so_do_its_later_lives(
    standing: Fence, tmp_path: pathlib.Path
) -> None:
    for _ in range(2):
        code, output = finish(run_agent(tmp_path, standing, "--netguard-seconds=0.5", canary=standing.open_canary))
        assert code == 20
        assert b"CanaryReachable" in output
        assert b"agent.listening" not in output
        assert endpoint(standing.peer).encode() not in output  # no addresses in logs


def test_an_agent_that_waits_for_its_fence_ends_when_it_is_told(standing: Fence, tmp_path: pathlib.Path) -> None:
    process = run_agent(tmp_path, standing, canary=standing.open_canary)
    lines_until(process, b"agent.hardened")
    process.send_signal(signal.SIGTERM)
    assert b"agent.listening" not in finish(process, 5)[1]


def test_an_agent_is_hidden_from_other_processes_of_its_user(standing: Fence, tmp_path: pathlib.Path) -> None:
    if os.getuid() != 0:
        pytest.skip("needs root to become two processes of another user")
    with tempfile.TemporaryDirectory() as name:
        os.chown(name, 65532, 65532)
        process = run_agent(pathlib.Path(name), standing, code=BECOME_NOBODY + RUN)
        try:
            lines_until(process, b"agent.listening")
            look = BECOME_NOBODY + f"open('/proc/{process.pid}/environ').read()"
            looked = subprocess.run(
                [sys.executable, "-c", look], env={"PYTHONPATH": str(ROOT / "operator")}, capture_output=True, check=False
            )
            assert b"PermissionError" in looked.stderr
        finally:
            process.send_signal(signal.SIGTERM)
            code, _ = finish(process, 10)
        assert code == 0


def test_seal_says_that_its_agent_is_gone(tmp_path: pathlib.Path) -> None:
    code, output = finish(agent("seal", "--socket", str(tmp_path / "nobody")))
    assert code == 2
    assert b"SandboxLost" in output


@pytest.mark.parametrize("arguments", [["run"], ["run", "--operator-cert", "", "--canary", "relay.example:1"], ["exec"]])
def test_wrong_arguments_are_refused(arguments: list[str]) -> None:
    assert finish(agent(*arguments))[0] in (2, 22)
