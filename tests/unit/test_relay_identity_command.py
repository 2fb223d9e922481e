"""The commands as people type them: `main` with arguments, exit codes, what is printed where. Keys are never printed."""

import asyncio
import contextlib
import dataclasses
import hashlib
import json
import pathlib
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any

import pytest
import yaml
from tests.support import mailboxes, sandboxes, stores
from tests.support.fake_kubectl import FakeKubectl, kubectl
from tests.support.mailboxes import OFFERS

from veilpod.cli import main
from veilpod.core import dataset
from veilpod.core.canonical import to_hex
from veilpod.core.keys import custody_key, signing_key
from veilpod.core.onion import relay_identity
from veilpod.core.sealing import recipient_bytes
from veilpod.core.statement import sign_statement
from veilpod.store.service import Service

__all__ = ["kubectl"]

Ran = Callable[..., tuple[int, str, str]]


@pytest.fixture
def veilpod(capsys: pytest.CaptureFixture[str]) -> Ran:
    def run(*arguments: object) -> tuple[int, str, str]:
        code = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return run


@contextlib.contextmanager
def in_background(
    make: Callable[[], contextlib.AbstractAsyncContextManager[Any]],
) -> Iterator[tuple[Any, Callable[[Coroutine[Any, Any, Any]], Any]]]:
    """Run a store in a loop of its own: the CLI brings its own loop, as in life. Gives the store and a way to run coroutines beside it."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def run(work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, loop).result(30)

    stop: asyncio.Event = run(_event())
    started: asyncio.Future[Any] = run(_future())

    async def live() -> None:
        async with make() as thing:
            started.set_result(thing)
            await stop.wait()

    living = asyncio.run_coroutine_threadsafe(live(), loop)
    try:
        yield run(_wait(started)), run
    finally:
        loop.call_soon_threadsafe(stop.set)
        living.result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(30)
        loop.close()


async def _event() -> asyncio.Event:
    return asyncio.Event()


async def _future() -> "asyncio.Future[Any]":
    return asyncio.get_running_loop().create_future()


async def _wait(future: "asyncio.Future[Any]") -> Any:
    return await future


@contextlib.asynccontextmanager
async def linked_store(directory: pathlib.Path) -> AsyncIterator[tuple[Service, stores.Linked]]:
    async with stores.running(directory) as service, stores.linked(service) as operator:
        yield service, operator


def test_a_chain_key_is_made_once_and_only_its_public_parts_are_shown(veilpod: Ran, tmp_path: pathlib.Path) -> None:
    file = tmp_path / "hospital.key"
    code, out, err = veilpod("keys", "new", "chain", file, "--output", "json")
    assert code == 0
    assert "secret" in err
    assert file.stat().st_mode & 0o777 == 0o600
    key = signing_key(file.read_text())
    shown = json.loads(out)
    assert shown["address"] == key.address
    assert recipient_bytes(shown["custody"]) == custody_key(key).public_bytes
    assert file.read_text().strip() not in out + err

    code, out, _ = veilpod("keys", "show", file)
    assert (code, key.address in out, file.read_text().strip() in out) == (0, True, False)

    code, _, err = veilpod("keys", "new", "chain", file)
    assert code == 2
    assert "left as it is" in err


def test_a_result_key_is_shown_as_a_recipient(veilpod: Ran, tmp_path: pathlib.Path) -> None:
    file = tmp_path / "result.key"
    veilpod("keys", "new", "result", file)
    code, out, _ = veilpod("keys", "show", file, "--output", "json")
    assert code == 0
    assert len(recipient_bytes(json.loads(out)["recipient"])) == 1216


@pytest.mark.parametrize("content", ["", "hello", "00" * 32, "ab" * 31, "zz" * 96])
def test_what_is_no_key_is_refused_without_repeating_it(veilpod: Ran, tmp_path: pathlib.Path, content: str) -> None:
    file = tmp_path / "k"
    file.write_text(content)
    code, out, err = veilpod("keys", "show", file)
    assert code == 2
    assert not content or content not in out + err


def test_a_missing_file_is_a_mistake_and_no_trace(veilpod: Ran, tmp_path: pathlib.Path) -> None:
    code, out, err = veilpod("keys", "show", tmp_path / "nowhere", "--output", "json")
    assert code == 2
    assert json.loads(out)["error"]["code"] == "NoKey"
    assert "Traceback" not in err


def test_a_sealed_file_opens_with_the_custodians_key_and_its_manifest_is_ready_to_apply(veilpod: Ran, tmp_path: pathlib.Path) -> None:
    veilpod("keys", "new", "chain", tmp_path / "store.key")
    custody = json.loads(veilpod("keys", "show", tmp_path / "store.key", "--output", "json")[1])["custody"]
    (tmp_path / "north.csv").write_bytes(b"1,2\n" * 700_000)
    code, out, err = veilpod("dataset", "seal", tmp_path / "north.csv", tmp_path / "north.sealed", "--to", custody, "--name", "north")
    assert code == 0
    sealed = (tmp_path / "north.sealed").read_bytes()
    manifest = yaml.safe_load(out)
    assert manifest["kind"] == "Dataset"
    assert manifest["metadata"]["name"] == "north"
    assert manifest["spec"]["digest"] == f"sha256:{hashlib.sha256(sealed).hexdigest()}"
    assert manifest["spec"]["size"] == len(sealed)
    assert manifest["spec"]["custody"] == "Store"
    assert "dataset put" in err
    header = dataset.parse_header(sealed)
    assert header is not None
    data_key = dataset.open_data_key(header, custody_key(signing_key((tmp_path / "store.key").read_text())))
    assert b"".join(dataset.open_stream([sealed], data_key=data_key)) == b"1,2\n" * 700_000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["north.csv", "north.sealed", "store.key"]


def test_sealing_to_something_that_is_no_key_says_how_to_get_one(veilpod: Ran, tmp_path: pathlib.Path) -> None:
    (tmp_path / "x").write_bytes(b"x")
    code, _, err = veilpod("dataset", "seal", tmp_path / "x", tmp_path / "y", "--to", "0x12", "--name", "n")
    assert code == 2
    assert "veilpod keys show" in err
    assert not (tmp_path / "y").exists()


def test_a_sealed_file_is_put_into_the_namespaces_store(veilpod: Ran, tmp_path: pathlib.Path, kubectl: FakeKubectl) -> None:
    sealed = tmp_path / "north.sealed"
    sealed.write_bytes(_sealed())
    labels = {"app.kubernetes.io/name": "veilpod", "app.kubernetes.io/component": "store", "app.kubernetes.io/instance": "hospital"}
    with in_background(lambda: linked_store(tmp_path / "data")) as ((service, operator), run):
        kubectl.objects["pods/hospital-store-0"] = {"metadata": {"name": "hospital-store-0", "labels": labels}}
        kubectl.forwards["pod/hospital-store-0:9102"] = service.upload.port
        kubectl.save()
        run(operator.link.announce_dataset(hashlib.sha256(sealed.read_bytes()).digest(), sealed.stat().st_size))
        assert veilpod("dataset", "put", sealed, "-n", "hospital")[:2] == (0, "stored\n")
        code, out, _ = veilpod("dataset", "put", sealed, "-n", "hospital", "--output", "json")
        assert (code, json.loads(out)) == (0, {"stored": True, "new": False})
        assert kubectl.calls()[0][:2] == ["--namespace", "hospital"]


def test_a_namespace_without_a_store_is_named(veilpod: Ran, tmp_path: pathlib.Path, kubectl: FakeKubectl) -> None:
    (tmp_path / "north.sealed").write_bytes(_sealed())
    code, _, err = veilpod("dataset", "put", tmp_path / "north.sealed", "-n", "elsewhere")
    assert code == 2
    assert "NoRelease" in err


def test_a_plain_file_is_not_put(veilpod: Ran, tmp_path: pathlib.Path, kubectl: FakeKubectl) -> None:
    (tmp_path / "plain.csv").write_text("1,2\n")
    code, _, err = veilpod("dataset", "put", tmp_path / "plain.csv")
    assert code == 1
    assert "veilpod dataset seal" in err
    assert kubectl.calls() == []


def test_statements_are_verified_offline_and_never_overstated(veilpod: Ran, tmp_path: pathlib.Path) -> None:
    file = tmp_path / "statements.json"
    file.write_text(json.dumps([OFFERS[0].document()]))
    server, digest = mailboxes.KEYS[0].server.address, to_hex(OFFERS[0].statement.digest)
    code, out, _ = veilpod("verify", file, "--server", server, "--digest", digest)
    assert code == 0
    assert "✗ T1 Sandboxed" in out
    assert "not claimed" in out
    assert "✓ T0 Isolated" in out

    code, out, _ = veilpod("verify", file)
    assert code == 0
    assert out.count("not checked") == 4
    assert "(NoTEE); a verifier would be asked about 0x" + OFFERS[0].statement.report_data.hex() in out

    code, out, _ = veilpod("verify", file, "--server", sandboxes.keys(7).server.address, "--output", "json")
    assert code == 1
    assert not json.loads(out)["sound"]
    assert veilpod("verify", file, "--digest", "0x" + "00" * 32)[0] == 1
    program, agent = OFFERS[0].statement.program_image, OFFERS[0].statement.agent_image
    assert veilpod("verify", file, "--program", program, "--agent", agent)[0] == 0
    assert veilpod("verify", file, "--program", agent)[0] == 1


def test_each_statement_of_a_file_is_checked_against_its_own_server(veilpod: Ran, tmp_path: pathlib.Path) -> None:
    file = tmp_path / "statements.json"
    file.write_text(json.dumps([offer.document() for offer in OFFERS[:2]]))
    first, second = (key.server.address for key in mailboxes.KEYS[:2])
    assert veilpod("verify", file, "--server", first, "--server", second)[0] == 0
    assert veilpod("verify", file, "--server", second, "--server", first)[0] == 1
    code, _, err = veilpod("verify", file, "--server", first)
    assert code == 2
    assert "NotOneEach" in err


def test_a_sandboxed_statement_is_sealed_only_where_nobody_gets_in(veilpod: Ran, tmp_path: pathlib.Path) -> None:
    file = tmp_path / "statement.json"
    for denied, rung in ((True, "T2"), (False, "T1")):
        statement = dataclasses.replace(OFFERS[0].statement, tier="T1", host_access_denied=denied)
        offer = dataclasses.replace(OFFERS[0], statement=statement, signature=sign_statement(statement, mailboxes.KEYS[0].signing))
        file.write_text(json.dumps(offer.document()))
        code, out, _ = veilpod("verify", file, "--output", "json")
        assert code == 0
        [found] = json.loads(out)["statements"]
        assert found["tier"] == rung
        assert [step["holds"] for step in found["steps"][-4:]] == [True, True, denied, False]


def test_status_says_what_is_missing_and_what_to_do(veilpod: Ran, kubectl: FakeKubectl) -> None:
    kubectl.objects["computetasks.veilpod.dev/tumour"] = _task("Failed", failed="NetguardRefused")
    kubectl.save()
    code, out, _ = veilpod("task", "status", "tumour", "-n", "institute")
    assert code == 1
    assert "✓  Requested" in out
    assert "failed at NetworkIsolated: NetguardRefused" in out
    assert "veilpod doctor" in out

    code, out, _ = veilpod("task", "status", "tumour", "--output", "json")
    assert json.loads(out)["phase"] == "Failed"
    code, _, err = veilpod("task", "status", "unknown")
    assert code == 2
    assert "no ComputeTask unknown" in err


def test_watching_ends_when_the_task_is_settled(veilpod: Ran, kubectl: FakeKubectl) -> None:
    kubectl.objects["computetasks.veilpod.dev/tumour"] = _task("Computed")
    steps = [_task("Computed"), _task("Destroyed"), _task("Settled"), _task("Computed")]
    kubectl.raw["watch:computetasks.veilpod.dev/tumour"] = steps
    kubectl.save()
    code, out, _ = veilpod("task", "status", "tumour", "-w")
    assert code == 0
    assert [line.split()[1] for line in out.splitlines() if line.startswith("tumour")] == ["Computed", "Destroyed", "Settled"]


def test_an_unknown_command_exits_with_two(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["frobnicate"])
    assert stopped.value.code == 2
    capsys.readouterr()


def test_without_kubectl_the_remedy_is_to_install_it(veilpod: Ran, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    code, _, err = veilpod("task", "status", "x")
    assert code == 2
    assert "NoKubectl" in err


def _sealed() -> bytes:
    header = dataset.make_header(
        name="north", custodian=custody_key(signing_key("11" * 32)).public_bytes, data_key=b"k" * 32, prefix=b"p" * 8
    )
    return b"".join(dataset.seal_stream([b"row\n" * 600_000], header=header, data_key=b"k" * 32))


def _task(phase: str, *, failed: str = "") -> dict[str, Any]:
    def condition(kind: str, status: str, reason: str) -> dict[str, Any]:
        return {"type": kind, "status": status, "reason": reason, "message": "", "lastTransitionTime": "2026-09-01T00:00:00Z"}

    status: dict[str, Any] = {
        "phase": phase,
        "taskId": to_hex(mailboxes.TASK),
        "conditions": [condition("Requested", "True", "Requested"), condition("NetworkIsolated", "False", "Waiting")],
    }
    if failed:
        status["failure"] = {"stage": "NetworkIsolated", "code": failed}
        status["conditions"].append(condition("Failed", "True", failed))
    return {"metadata": {"name": "tumour"}, "status": status}


# -- relays


def test_relay_identities_go_into_a_secret_that_cannot_change_and_nowhere_else(veilpod: Ran, kubectl: FakeKubectl):
    code, out, err = veilpod("relay-identity", "kept", "-n", "north")
    assert code == 0
    assert "identitySecretName: kept" in out
    secret = kubectl.created()
    assert (secret["kind"], secret["metadata"], secret["immutable"]) == ("Secret", {"name": "kept"}, True)
    entries = secret["stringData"]
    assert set(entries) == {relay_identity.entry(ordinal) for ordinal in range(16)}
    assert len({relay_identity.parse(pem.encode()).private_bytes_raw() for pem in entries.values()}) == 16
    (call,) = kubectl.calls()
    assert call[:3] == ["--namespace", "north", "create"]
    assert "PRIVATE KEY" not in out + err + str(call)


@pytest.mark.parametrize(
    ("said", "code", "reason"),
    [('Error from server (AlreadyExists): secrets "kept" already exists', 2, "SecretExists"), ("error: it says PRIVATE KEY", 1, "NotMade")],
)
def test_a_secret_that_is_not_made_is_told_without_what_was_to_be_in_it(veilpod: Ran, kubectl: FakeKubectl, said, code, reason):
    kubectl.says["create"] = [1, "", said]
    kubectl.save()
    ended, out, err = veilpod("relay-identity", "kept")
    assert ended == code
    assert reason in err
    assert "PRIVATE KEY" not in out + err
