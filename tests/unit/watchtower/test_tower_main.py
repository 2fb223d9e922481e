"""The tower as a process without its chain: it serves its probes and waits, and says what a person must correct."""

import pathlib
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request

import pytest

from veilpod.watchtower.metrics import NAMES
from veilpod.watchtower.settings import parse

ADDRESSES = ["--registry", "0x" + "1" * 40, "--scheduler", "0x" + "2" * 40, "--channels", "0x" + "3" * 40]
MONEY = ["--cap", str(10**17), "--max-fee", str(10**11)]


def arguments(directory: pathlib.Path) -> list[str]:
    return [
        "--rpc-url", "http://127.0.0.1:1", "--chain-id", "1", *ADDRESSES, *MONEY, "--data", str(directory),
        "--key-file", str(directory / "key"),
    ]  # fmt: skip


def test_the_command_line_becomes_settings(tmp_path):
    settings = parse([*arguments(tmp_path), "--listen", "[::1]:9", "--party", "0x" + "ab" * 20, "--party", "0x" + "cd" * 20])
    assert (settings.listen.host, settings.listen.port) == ("::1", 9)
    assert settings.admin.host == "127.0.0.1", "what is guarded is shown on the own loopback only"
    assert len(settings.parties) == 2
    assert settings.domain.contract.lower() == "0x" + "3" * 40


@pytest.mark.parametrize(
    "change",
    [["--cap", "1 ether"], ["--max-fee", "-1"], ["--party", "0x12"], ["--listen", "everywhere"], ["--channels", "contract"]],
    ids=lambda change: change[0],
)
def test_a_mistake_is_named(tmp_path, capsys, change):
    with pytest.raises(SystemExit) as stopped:
        parse([*arguments(tmp_path), *change])
    assert stopped.value.code == 2
    assert change[0] in capsys.readouterr().err


def test_a_missing_key_is_told(tmp_path):
    command = [sys.executable, "-m", "veilpod.watchtower", *arguments(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (result.returncode, "NoKey" in result.stderr) == (2, True)


def test_a_cap_that_pays_for_nothing_is_told_before_anything_is_promised(tmp_path):
    (tmp_path / "key").write_text("11" * 32)
    command = [sys.executable, "-m", "veilpod.watchtower", *arguments(tmp_path), "--cap", "1"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (result.returncode, "CapTooLow" in result.stderr) == (2, True)


def test_it_waits_for_its_chain_alive_and_not_ready(tmp_path):
    (tmp_path / "key").write_text("11" * 32)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    more = ["--metrics", f"127.0.0.1:{port}", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]
    command = [sys.executable, "-m", "veilpod.watchtower", *arguments(tmp_path), *more]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        until_open(port, process)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5) as answer:
            assert answer.status == 200
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5)
        assert refused.value.read() == b"the chain has not answered yet\n"
        refused.value.close()
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            shown = {line.split()[0] for line in answer.read().decode().splitlines() if not line.startswith("#")}
        assert "veilpod_watchtower_guarded" in shown
        assert shown <= NAMES
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=20)
        assert (process.returncode, errors) == (0, "")
    finally:
        process.kill()
        process.communicate()


def until_open(port: int, process: "subprocess.Popen[str]") -> None:
    while process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
    raise AssertionError(process.stderr.read() if process.stderr else "")
