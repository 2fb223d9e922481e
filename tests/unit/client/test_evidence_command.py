"""`veilpod evidence`: from the mailbox of a broken ceremony to a file that anybody can judge."""

import asyncio
import contextlib
import json
import pathlib
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from tests.support import ceremonies, stores
from tests.support.fake_kubectl import FakeKubectl, kubectl
from tests.support.mailboxes import CEREMONY, KEYS, OFFERS, POSTS, TASK, TERMS

from veilpod.cli import main
from veilpod.client import exchange
from veilpod.core.canonical import to_hex
from veilpod.errors import Refused
from veilpod.store.service import Service

__all__ = ["kubectl"]

Run = Callable[..., Awaitable[tuple[int, str, str]]]
OTHERS, _ = ceremonies.play(ceremonies.members(CEREMONY, [k.signing for k in KEYS], seed=b"other"))


@pytest.fixture
def veilpod(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> Run:
    monkeypatch.chdir(tmp_path)

    async def run(*arguments: str) -> tuple[int, str, str]:
        code = await asyncio.to_thread(main, ["evidence", *arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return run


@contextlib.asynccontextmanager
async def mailbox(kubectl: FakeKubectl, directory: pathlib.Path) -> AsyncIterator[Service]:
    """The mailbox of a task whose two sandboxes have met, and the way to it."""
    async with stores.running(directory / "store") as service:
        service.mailbox.announce(TERMS)
        for offer in OFFERS:
            await service.mailbox.put_offer(offer.document())
        labels = {"app.kubernetes.io/name": "veilpod", "app.kubernetes.io/component": "mailbox"}
        kubectl.objects = {
            "computetasks.veilpod.dev/job": {"metadata": {"name": "job"}, "status": {"taskId": to_hex(TASK)}},
            "pods/institute-mailbox-0": {"metadata": {"name": "institute-mailbox-0", "labels": labels}},
        }
        kubectl.forwards = {"pod/institute-mailbox-0:9102": service.upload.port}
        kubectl.save()
        yield service


async def test_evidence_is_saved_and_convicts_wherever_it_is_shown(kubectl: FakeKubectl, veilpod: Run, tmp_path: pathlib.Path) -> None:
    async with mailbox(kubectl, tmp_path) as service:
        for posts in (POSTS, OTHERS):
            await service.mailbox.put_ceremony(posts[0][1].document())
        code, out, err = await veilpod("fetch", "job", "-n", "institute")
        assert (code, err) == (0, "")
        assert f"server 1 broke the key ceremony: Equivocation ({KEYS[1].server.address} vouched for its sandbox)" in out
        assert (await veilpod("fetch", "job", "-n", "institute"))[0] == 2, "a file is not overwritten"
    code, out, _ = await veilpod("judge", "job-evidence.json", "--output", "json")
    assert code == 0
    (guilty,) = json.loads(out)["guilty"]
    assert guilty == {
        "server": 1,
        "kind": "Equivocation",
        "account": KEYS[1].server.address,
        "statement": to_hex(OFFERS[1].statement.digest),
    }


async def test_who_is_not_proved_guilty_is_not_accused(kubectl: FakeKubectl, veilpod: Run, tmp_path: pathlib.Path) -> None:
    async with mailbox(kubectl, tmp_path):
        code, out, _ = await veilpod("fetch", "job", "-n", "institute")
    assert code == 0
    assert "nobody is proved guilty" in out
    assert not (tmp_path / "job-evidence.json").exists()


@pytest.mark.parametrize("forgery", ["a word that was said once", "statements of another task", "statements out of order", "not evidence"])
async def test_a_file_that_proves_nothing_convicts_nobody(forgery: str, veilpod: Run, tmp_path: pathlib.Path) -> None:
    words = [POSTS[0][1].word.document(), OTHERS[0][1].word.document()]
    document = {
        "taskId": to_hex(TASK),
        "offers": [offer.document() for offer in OFFERS],
        "evidence": [{"kind": "Equivocation", "first": words[0], "second": words[1]}],
    }
    match forgery:
        case "a word that was said once":
            document["evidence"] = [{"kind": "Equivocation", "first": words[0], "second": words[0]}]
        case "statements of another task":
            document["taskId"] = to_hex(b"\x77" * 32)
        case "statements out of order":
            document["offers"] = document["offers"][::-1]
        case _:
            document = {"guilty": 1}
    (tmp_path / "forged.json").write_text(json.dumps(document))
    code, out, err = await veilpod("judge", "forged.json")
    assert (code, out) == (1, "")
    assert err.startswith("veilpod: ")


async def test_a_server_that_there_cannot_be_is_refused_and_the_mailbox_goes_on(
    kubectl: FakeKubectl, veilpod: Run, tmp_path: pathlib.Path
) -> None:
    async with mailbox(kubectl, tmp_path) as service:
        for server in (-1, 16, [0], "0", None):
            async with exchange.opened(service.upload.port) as talk:
                with pytest.raises(Refused):
                    await talk.ask({"get": "evidence", "taskId": to_hex(TASK), "server": server})
        assert (await veilpod("fetch", "job", "-n", "institute"))[0] == 0
