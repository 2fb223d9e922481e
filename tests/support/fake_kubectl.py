"""A `kubectl` on the PATH that answers from a file: the CLI runs it as it runs the real one, as a process.

`world.json` holds objects by "kind/name", local ports by "pod/x:9102", bodies by path, and what is said to commands that begin with
certain words: [code, stdout, stderr]. What it was asked is appended to `calls.jsonl`, what it was to create is in `created.json`.
"""

import json
import pathlib
import sys
import time
from typing import Any

import pytest

_SCRIPT = """#!{python}
import sys
sys.path.insert(0, {root!r})
from tests.support.fake_kubectl import answer
sys.exit(answer({directory!r}, sys.argv[1:]))
"""


class FakeKubectl:
    """Change `objects`, `forwards`, `raw` and `says`, then `save`."""

    def __init__(self, directory: pathlib.Path) -> None:
        self.directory = directory
        self.objects: dict[str, Any] = {}
        self.forwards: dict[str, int] = {}
        self.raw: dict[str, Any] = {}
        self.says: dict[str, list[Any]] = {}

    def save(self) -> None:
        world = {"objects": self.objects, "forwards": self.forwards, "raw": self.raw, "says": self.says}
        (self.directory / "world.json").write_text(json.dumps(world))

    def calls(self) -> list[list[str]]:
        log = self.directory / "calls.jsonl"
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []

    def created(self) -> dict[str, Any]:
        body: dict[str, Any] = json.loads((self.directory / "created.json").read_text())
        return body


@pytest.fixture
def kubectl(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> FakeKubectl:
    directory = tmp_path_factory.mktemp("kubectl")
    root = str(pathlib.Path(__file__).parents[2])
    script = directory / "kubectl"
    script.write_text(_SCRIPT.format(python=sys.executable, root=root, directory=str(directory)))
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(directory), prepend=":")
    fake = FakeKubectl(directory)
    fake.save()
    return fake


def answer(directory: str, arguments: list[str]) -> int:
    with open(pathlib.Path(directory) / "calls.jsonl", "a") as log:
        log.write(json.dumps(arguments) + "\n")
    world = json.loads((pathlib.Path(directory) / "world.json").read_text())
    words = []
    options = iter(arguments)
    for argument in options:
        if argument in ("--namespace", "--context", "--output", "--selector", "--filename"):
            next(options)
        elif argument != "--watch":
            words.append(argument)
    line = " ".join(words)
    for start, (code, out, err) in world["says"].items():
        if line.startswith(start):
            sys.stdout.write(out)
            sys.stderr.write(err)
            return int(code)
    if words[0] == "get" and words[1] == "--raw":
        return _show(world["raw"].get(words[2]), words[2])
    if words[0] == "get" and "--watch" in arguments:
        for step in world["raw"].get(f"watch:{words[1]}/{words[2]}", []):
            print(json.dumps(step, indent=1), flush=True)
        return 0
    if words[0] == "get" and len(words) == 3:
        return _show(world["objects"].get(f"{words[1]}/{words[2]}"), words[2])
    if words[0] == "get":
        selector = dict(pair.split("=") for pair in _option(arguments, "--selector").split(",") if pair)
        found = [body for name, body in world["objects"].items() if name.startswith(f"{words[1]}/")]
        return _show({"items": [body for body in found if selector.items() <= body["metadata"].get("labels", {}).items()]}, "")
    if words[0] == "create":
        (pathlib.Path(directory) / "created.json").write_text(sys.stdin.read())
        return 0
    if words[0] == "port-forward":
        return _forward(world["forwards"].get(f"{words[1]}{words[2]}"))
    sys.stderr.write(f"error: unknown command {line}\n")
    return 1


def _option(arguments: list[str], name: str) -> str:
    return arguments[arguments.index(name) + 1] if name in arguments else ""


def _show(body: Any, name: str) -> int:
    if body is None:
        sys.stderr.write(f'Error from server (NotFound): "{name}" not found\n')
        return 1
    print(json.dumps(body))
    return 0


def _forward(port: int | None) -> int:
    if port is None:
        sys.stderr.write("Error from server (NotFound): pods not found\n")
        return 1
    print(f"Forwarding from 127.0.0.1:{port} -> 9102", flush=True)
    while True:
        time.sleep(60)  # noqa: TID251 - stands for a process that runs until it is ended
