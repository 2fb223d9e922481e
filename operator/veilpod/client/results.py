"""A recipient's work: fetch the sealed result, verify it against the chain, open it, write it down. Paper step 9.

In this order, each before the next is believed: the chain's task; the digest and the task key's signature; the result hash on chain;
every sandbox's statement against the chain; who made the task key and the result; only then the result is opened and written.
"""

import asyncio
import dataclasses
import hashlib
import json
import pathlib

from veilpod.chain import Chain
from veilpod.client import exchange, ladder
from veilpod.client.chains import ChainOptions, opened
from veilpod.client.kubectl import Kubectl
from veilpod.client.releases import UPLOAD_PORT, store_pod
from veilpod.core import result as results
from veilpod.core.canonical import from_hex, to_hex
from veilpod.core.ceremony.words import Ceremony, Confirmation, confirmed_key, parse_confirmations
from veilpod.core.entities import ChainTask, TaskPhase
from veilpod.core.ids import TaskId
from veilpod.core.meeting import Offer, parse_offer, verify_author, verify_result
from veilpod.core.sealing import HybridPrivateKey
from veilpod.core.store_messages import ResultInfo, parse_result_info
from veilpod.core.task.pods import image_digest
from veilpod.core.task.spec import decode_spec
from veilpod.core.typed_data import Domain, statements_hash
from veilpod.errors import InvalidInput, ProtocolViolation

_MAX_RESULT = 8 << 30

_Download = tuple[ResultInfo, bytes, list[Offer], tuple[Confirmation, ...]]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """An opened result with what was proved about it: `steps` per computing server, `checks` about the whole."""

    task: TaskId
    result: results.Result
    result_hash: bytes
    checks: tuple[ladder.Step, ...]
    servers: tuple[tuple[Offer, tuple[ladder.Step, ...]], ...]


async def fetch(name: str, kubectl: Kubectl, options: ChainOptions, key: HybridPrivateKey) -> Verified:
    """Fetch and verify a ComputeTask's result. Raises ProtocolViolation when anything is not as it must be."""
    task_id = await task_of(name, kubectl)
    async with opened(options, kubectl) as (choice, chain):
        task = await chain.reader.task(task_id)
        if task.phase is TaskPhase.NONE or task.published_key is None:
            raise InvalidInput("NoResult", "the task has no published key on chain yet: see `veilpod task status`")
        info, sealed, offers, confirmations = await _download(task_id, kubectl, options.release)
        domain = Domain(chain_id=choice.chain_id, contract=choice.addresses.scheduler)
        checks, result_hash = _check_result(task, info, sealed, domain)
        servers = await _check_statements(task, offers, chain)
        checks += _check_makers(task, info, offers, confirmations)
    opened_result = await asyncio.to_thread(results.open_result, sealed, key, task=task_id)
    checks.append(ladder.Step(holds=True, text="opened with your key; the archive is the one that its sealed header names"))
    return Verified(task=task_id, result=opened_result, result_hash=result_hash, checks=tuple(checks), servers=servers)


async def task_of(name: str, kubectl: Kubectl) -> TaskId:
    """The id on chain of a ComputeTask. Raises InvalidInput."""
    body = await kubectl.get("computetasks.veilpod.dev", name)
    if body is None:
        raise InvalidInput("NotFound", f"there is no ComputeTask {name} in this namespace")
    found = body.get("status", {}).get("taskId")
    if not found:
        raise InvalidInput("NotRequested", f"{name} is not on chain yet: see `veilpod task status {name}`")
    return TaskId(from_hex(found, 32))


def write(verified: Verified, directory: pathlib.Path) -> list[pathlib.Path]:
    """Write the result's files, the program's log and the statements. Raises InvalidInput("Exists") instead of overwriting."""
    entries = results.unpack(verified.result.archive)
    output, log = directory / "out", verified.result.log
    if output.exists():
        raise InvalidInput("Exists", f"{output} exists and is left as it is: name another directory with -o")
    written = []
    for entry in entries:
        path = output / entry.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(entry.data)
        path.chmod(0o755 if entry.executable else 0o644)
        written.append(path)
    output.mkdir(parents=True, exist_ok=True)
    (directory / "stdout.log").write_bytes(log.stdout)
    (directory / "stderr.log").write_bytes(log.stderr)
    (directory / "statements.json").write_text(json.dumps([offer.document() for offer, _ in verified.servers], indent=1) + "\n")
    return written


async def _download(task: TaskId, kubectl: Kubectl, release: str | None) -> _Download:
    pod = await store_pod(kubectl, "mailbox", release=release)
    async with kubectl.forward(pod, UPLOAD_PORT) as port:
        async with exchange.opened(port) as talk:
            answer = await talk.ask({"get": "offers", "taskId": to_hex(task)})
            offers = [parse_offer(item, party="mailbox") for item in answer.get("offers", [])]
            confirmations = parse_confirmations(answer.get("confirmations", []), party="mailbox")
        async with exchange.opened(port) as talk:
            info = parse_result_info(await talk.ask({"get": "result", "taskId": to_hex(task)}))
            if info.size > _MAX_RESULT:
                raise ProtocolViolation("ResultRefused", f"a result of {info.size} bytes", party="mailbox")
            return info, await talk.receive(info.size), offers, confirmations


def _check_result(task: ChainTask, info: ResultInfo, sealed: bytes, domain: Domain) -> tuple[list[ladder.Step], bytes]:
    assert task.published_key is not None
    if hashlib.sha256(sealed).digest() != info.digest:
        raise ProtocolViolation("ResultRefused", "the mailbox gave other bytes than it named", party="mailbox")
    result_hash = results.result_hash_of_digest(task.id, info.digest)
    verify_result(domain=domain, task=task.id, result_hash=result_hash, signature=info.signature, key=task.published_key, party="mailbox")
    steps = [ladder.Step(holds=True, text=f"signed by the task key {task.published_key}, which all its servers published on chain")]
    if task.result_hash is None:
        steps.append(ladder.Step(holds=None, text=f"result hash on chain: not yet (the task is {task.phase.name.capitalize()})"))
    elif task.result_hash != result_hash:
        raise ProtocolViolation("ResultRefused", "the chain's result hash is another result's", party="mailbox")
    else:
        steps.append(ladder.Step(holds=True, text=f"the chain's result hash is this result's: {to_hex(result_hash)}"))
    return steps, result_hash


def _check_makers(task: ChainTask, info: ResultInfo, offers: list[Offer], confirmations: tuple[Confirmation, ...]) -> list[ladder.Step]:
    """Every sandbox holds the task key: that they all made it, and which of them made the result, is said by their own keys."""
    signers = tuple(offer.statement.signing_key for offer in offers)
    ceremony = Ceremony(task=task.id, statements=statements_hash(task.statements), signers=signers)
    if confirmed_key(ceremony, confirmations, party="mailbox") != task.published_key:
        raise ProtocolViolation("KeyRefused", "the published key is another one than the sandboxes made together", party="requester")
    sender = decode_spec(task.spec).result.sender
    verify_author(task.id, info.digest, info.author, signers[sender], party="mailbox")
    everybody = "the one sandbox" if len(signers) == 1 else f"all {len(signers)} sandboxes together"
    return [
        ladder.Step(holds=True, text=f"the task key was made by {everybody}, each of which confirmed it"),
        ladder.Step(holds=True, text=f"the result was made in the sandbox of server {sender}"),
    ]


async def _check_statements(task: ChainTask, offers: list[Offer], chain: Chain) -> tuple[tuple[Offer, tuple[ladder.Step, ...]], ...]:
    if len(offers) != len(task.statements):
        raise ProtocolViolation("StatementRefused", "the mailbox does not have every sandbox's statement", party="mailbox")
    program = image_digest(decode_spec(task.spec).program.image)
    servers = []
    for offer, digest, node in zip(offers, task.statements, task.compute, strict=True):
        owner = (await chain.reader.node(node)).owner
        steps = ladder.climb(offer, ladder.Known(server=owner, digest=digest, program=program))
        if not ladder.sound(steps):
            failed = next(step.text for step in steps if step.holds is False)
            raise ProtocolViolation("StatementRefused", f"a sandbox's statement does not hold: {failed}", party="mailbox")
        servers.append((offer, tuple(steps)))
    return tuple(servers)
