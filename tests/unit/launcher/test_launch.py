"""The launcher, compiled as it ships and driven over its socket."""

import contextlib
import fcntl
import os
import pathlib
import shutil
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from localcluster import waiting

SOURCE = pathlib.Path(__file__).parents[3] / "operator" / "launcher" / "launch.c"
HELLO, OUT, ERR, EXIT, GO, STOP, SEEN, GO_ANYWAY = 0, 1, 2, 3, 8, 9, 10, 11
EXITED, SIGNALED, DEADLINE, NOT_STARTED, STOPPED, NOT_CONFINED = range(6)


@pytest.fixture(scope="session")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler on this machine")
    binary = tmp_path_factory.mktemp("launcher") / "launch"
    subprocess.run([compiler, "-static", "-O2", "-Wall", "-Wextra", "-Werror", "-std=gnu11", "-o", binary, SOURCE], check=True)
    return binary


class Agent:
    """The agent's side of the socket, and the launcher as a process."""

    def __init__(
        self,
        launcher: pathlib.Path,
        directory: pathlib.Path,
        *command: str,
        abstract: bool = False,
        env: dict[str, str] | None = None,
        within: tuple[str, ...] = (),
    ) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        name = f"@veilpod-test-{os.getpid()}-{id(self)}" if abstract else str(directory / "program.sock")
        self._listener.bind(name.replace("@", "\0"))
        self._listener.listen(1)
        self._listener.settimeout(10)
        self.process = subprocess.Popen(
            [*within, launcher, "--socket", name, "--", *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=env
        )
        self.connection, _ = self._listener.accept()
        self.connection.settimeout(10)
        self.output = {OUT: b"", ERR: b""}

    def frame(self) -> tuple[int, bytes]:
        kind, size = struct.unpack(">BI", self._exactly(5))
        return kind, self._exactly(size)

    def go(self, seconds: int = 60, *, ports: tuple[int, ...] = (), word: int = GO) -> None:
        assert self.frame() == (HELLO, b"")
        self.connection.sendall(struct.pack(f">BII{len(ports)}H", word, 4 + 2 * len(ports), seconds, *ports))

    def until_exit(self, *, seen: bool = True) -> tuple[int, int]:
        while True:
            kind, body = self.frame()
            if kind == EXIT:
                if seen:
                    self.connection.sendall(struct.pack(">BI", SEEN, 0))
                how, code = struct.unpack(">BI", body)
                return how, code
            self.output[kind] += body

    def close(self) -> None:
        self.connection.close()
        self._listener.close()
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def container_log(self) -> bytes:
        assert self.process.stdout is not None
        return self.process.stdout.read()

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = self.connection.recv(size - len(data))
            if not piece:
                raise EOFError
            data += piece
        return data


Start = Callable[..., Agent]


@pytest.fixture
def started(launcher: pathlib.Path, tmp_path: pathlib.Path) -> Iterator[Start]:
    agents: list[Agent] = []

    def start(*command: str, **options: Any) -> Agent:
        agents.append(Agent(launcher, tmp_path, *command, **options))
        return agents[-1]

    yield start
    for agent in agents:
        agent.close()


def python(code: str) -> tuple[str, str, str]:
    return sys.executable, "-c", code


def alive(pid: int) -> bool:
    try:
        return "Z" not in pathlib.Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


def test_output_goes_to_the_agent_and_only_a_fixed_line_to_the_containers_log(started: Start) -> None:
    agent = started(*python("import sys; print('secret'); print('worse', file=sys.stderr)"))
    agent.go()
    assert agent.until_exit() == (EXITED, 0)
    assert agent.output == {OUT: b"secret\n", ERR: b"worse\n"}
    assert agent.container_log() == b"veilpod: the program runs; its output is sealed into the result\n"
    assert agent.process.wait(5) == 0


def test_the_agents_socket_may_have_an_abstract_name(started: Start) -> None:
    agent = started("true", abstract=True)
    agent.go()
    assert agent.until_exit() == (EXITED, 0)


def test_a_program_cannot_reach_the_containers_log_through_its_parent(started: Start) -> None:
    agent = started(*python("import os; open(f'/proc/{os.getppid()}/fd/1', 'w').write('leak'); print('done')"))
    agent.go()
    agent.until_exit()
    if os.getuid() != 0:  # root may always
        assert b"PermissionError" in agent.output[ERR]
    assert b"leak" not in agent.container_log()


def test_nothing_runs_before_the_agent_says_go(started: Start, tmp_path: pathlib.Path) -> None:
    marker = tmp_path / "ran"
    agent = started("touch", str(marker))
    assert agent.frame() == (HELLO, b"")
    assert not marker.exists()
    agent.connection.close()
    assert agent.process.wait(5) == 16
    assert not marker.exists()


@pytest.mark.parametrize(
    ("code", "expected"), [("raise SystemExit(3)", (EXITED, 3)), ("import os; os.kill(os.getpid(), 9)", (SIGNALED, 9))]
)
def test_how_a_program_ended_is_reported_and_the_agent_lives_on(started: Start, code: str, expected: tuple[int, int]) -> None:
    agent = started(*python(code))
    agent.go()
    assert agent.until_exit() == expected
    assert agent.process.wait(5) == 0


def test_a_report_that_nobody_saw_shows_in_the_exit_status(started: Start) -> None:
    agent = started(*python("raise SystemExit(3)"))
    agent.go()
    assert agent.until_exit(seen=False) == (EXITED, 3)
    agent.connection.close()
    assert agent.process.wait(5) == 10


def test_a_command_that_does_not_exist_is_not_started(started: Start) -> None:
    agent = started("/no/such/program")
    agent.go()
    assert agent.until_exit() == (NOT_STARTED, 0)


def test_the_deadline_kills_the_whole_group(started: Start) -> None:
    agent = started(*python("import signal, subprocess; print(subprocess.Popen(['sleep', '600']).pid, flush=True); signal.pause()"))
    agent.go(seconds=1)
    assert agent.until_exit() == (DEADLINE, 0)
    child = int(agent.output[OUT])
    assert waiting.until(lambda: not alive(child), timeout=5)


@pytest.mark.skipif(os.getuid() != 0, reason="only root makes a process number space of its own here")
def test_what_left_the_programs_session_is_gone_before_its_output_is_read(started: Start, tmp_path: pathlib.Path) -> None:
    held = tmp_path / "held"
    escape = (
        f"import fcntl, os, time; file = open({str(held)!r}, 'w'); ready, told = os.pipe()\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    if os.fork() == 0:\n"
        "        fcntl.flock(file, fcntl.LOCK_EX); os.write(told, b'1'); time.sleep(600)\n"
        "    os._exit(0)\n"
        "os.read(ready, 1)"
    )
    agent = started(*python(escape), within=("unshare", "--pid", "--fork", "--kill-child"))
    agent.go()
    assert agent.until_exit(seen=False) == (EXITED, 0)
    with held.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # its holder is dead


def test_a_program_that_ignores_sigterm_is_killed_at_its_deadline(started: Start) -> None:
    agent = started(*python("import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile True: signal.pause()"))
    agent.go(seconds=1)
    assert agent.until_exit() == (DEADLINE, 0)


@pytest.mark.parametrize("how", ["sigterm", "stop", "agent gone"])
def test_the_program_ends_when_it_is_told_to_or_nobody_watches(started: Start, how: str) -> None:
    agent = started(*python("import os, signal; os.write(1, b'ready'); signal.pause()"))
    agent.go()
    assert agent.frame() == (OUT, b"ready")
    if how == "sigterm":
        agent.process.send_signal(signal.SIGTERM)
        assert agent.until_exit() == (STOPPED, 0)
        assert agent.process.wait(5) == 0
    elif how == "stop":
        agent.connection.sendall(struct.pack(">BI", STOP, 0))
        assert agent.until_exit() == (STOPPED, 0)
    else:
        agent.connection.close()
        assert agent.process.wait(10) == 16


def test_much_output_arrives_whole_and_in_order(started: Start) -> None:
    agent = started(*python("import sys; sys.stdout.write(''.join(f'{n}\\n' for n in range(200000)))"))
    agent.go()
    assert agent.until_exit() == (EXITED, 0)
    assert agent.output[OUT] == "".join(f"{n}\n" for n in range(200000)).encode()


def test_the_program_gets_its_environment_without_what_kubernetes_adds(started: Start) -> None:
    env = {"VEILPOD_TASK": "t", "PATH": "/bin", "KUBERNETES_SERVICE_HOST": "198.18.0.1", "HOSTNAME": "pod"}
    agent = started(*python("import os; print(sorted(set(os.environ) - {'LC_CTYPE'}))"), env=env)
    agent.go()
    agent.until_exit()
    assert agent.output[OUT] == b"['PATH', 'VEILPOD_TASK']\n"


def test_the_program_leads_its_own_session_without_new_privileges_or_cores(started: Start) -> None:
    code = (
        "import os, resource; print(os.getsid(0) == os.getpid(), resource.getrlimit(resource.RLIMIT_CORE)); "
        "print(open('/proc/self/status').read())"
    )
    agent = started(*python(code))
    agent.go()
    agent.until_exit()
    text = agent.output[OUT].decode()
    assert text.startswith("True (0, 0)")
    assert "NoNewPrivs:\t1" in text


def test_bad_usage_is_not_started(launcher: pathlib.Path) -> None:
    assert subprocess.run([launcher, "--", "true"], capture_output=True, check=False).returncode == 13
