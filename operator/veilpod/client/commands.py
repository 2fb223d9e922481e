"""The CLI's commands as functions: values in, an Answer out. They print nothing (but for a watch, through `show`) and never exit."""

import contextlib
import dataclasses
import datetime
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import yaml

from veilpod.chain.deploy import deploy as deploy_contracts
from veilpod.chain.rpc import Rpc
from veilpod.client import chains, datasets, doctor, evidence, keyfiles, ladder, relays, results, towers
from veilpod.client import status as statuses
from veilpod.client.chains import ChainOptions
from veilpod.client.kubectl import Kubectl
from veilpod.core.canonical import from_hex, to_hex
from veilpod.core.dataset_spec import resource_id
from veilpod.core.entities import Role
from veilpod.core.ids import Address, NodeId
from veilpod.core.keys import parse_address
from veilpod.core.meeting import parse_offer
from veilpod.core.task.manifest import to_units
from veilpod.errors import InvalidInput, ProtocolViolation

_MARKS = {True: "✓", False: "✗", None: "·"}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a command found: `value` for scripts, `lines` for people, `note` for stderr, `good` for the exit code."""

    value: Any
    lines: Sequence[str] = ()
    note: str = ""
    good: bool = True


def new_key(kind: str, path: pathlib.Path) -> Answer:
    """Make a key file."""
    answer = _public(keyfiles.make(kind, path))
    return dataclasses.replace(answer, note=f"{path} is secret and cannot be made again: keep a copy in a safe place")


def show_key(path: pathlib.Path) -> Answer:
    """Show the public parts of a key file."""
    return _public(keyfiles.show(path))


async def make_identities(name: str, kubectl: Kubectl) -> Answer:
    """Make a Secret with a relay's identity keys."""
    await relays.make_identities(name, kubectl)
    lines = [f"made the Secret {name}; write it into the OnionRelay: spec.identitySecretName: {name}"]
    return Answer(value={"secret": name}, lines=lines, note="it is the only copy; a relay that loses it comes back as a new one")


def seal(source: pathlib.Path, target: pathlib.Path, *, to: str, name: str, owner: str | None, custody: str) -> Answer:
    """Seal a file and give the Dataset that offers it."""
    sealed = datasets.seal(source, target, to=to, name=name)
    manifest = datasets.manifest(sealed, owner=_address(owner) if owner else None, custody=custody)
    value = {"digest": f"sha256:{sealed.digest.hex()}", "size": sealed.size, "manifest": manifest}
    note = (
        f"sealed into {target}: {sealed.size} bytes, sha256:{sealed.digest.hex()}; apply the Dataset, then `veilpod dataset put {target}`"
    )
    return Answer(value=value, lines=yaml.safe_dump(manifest, sort_keys=False).splitlines(), note=note)


async def put(path: pathlib.Path, kubectl: Kubectl, *, release: str | None) -> Answer:
    """Upload a sealed file."""
    fresh = await datasets.put(path, kubectl, release=release)
    return Answer(value={"stored": True, "new": fresh}, lines=["stored" if fresh else "the store has it already"])


async def register(path: pathlib.Path, *, node: int, key: pathlib.Path, kubectl: Kubectl, chain: ChainOptions) -> Answer:
    """Register a sealed file as its owner."""
    sealed, signer = datasets.inspect(path), keyfiles.chain_key(key)
    async with chains.opened(chain, kubectl, key=signer) as (_, link):
        resource = await link.writer.add_resource(node=NodeId(node), name=sealed.name, digest=sealed.digest, size=sealed.size)
    return Answer(value={"resource": to_hex(resource), "owner": signer.address}, lines=[f"{sealed.name} is registered: {to_hex(resource)}"])


async def revoke(name: str, *, key: pathlib.Path, kubectl: Kubectl, chain: ChainOptions) -> Answer:
    """Revoke a data set as its owner."""
    signer = keyfiles.chain_key(key)
    resource = resource_id(signer.address, name)
    async with chains.opened(chain, kubectl, key=signer) as (_, link):
        found = await link.reader.resource(resource)
        if found is None:
            raise InvalidInput("NotRegistered", f"{signer.address} has registered no data set {name}")
        if not found.revoked:
            await link.writer.revoke_resource(resource)
    return Answer(value={"resource": to_hex(resource), "revoked": True}, lines=[f"{name} is revoked: no further grants"])


async def status(name: str, kubectl: Kubectl, *, watch: bool, show: Callable[[str], None] | None) -> Answer:
    """Say how far a task is; with `watch`, each change until it is over."""
    body = await kubectl.get("computetasks.veilpod.dev", name)
    if body is None:
        raise InvalidInput("NotFound", f"there is no ComputeTask {name} in this namespace")
    if not watch or statuses.done(body):
        return Answer(value=body.get("status", {}), lines=statuses.lines(body, now=_now()), good=not _failed(body))
    while not statuses.done(body):
        # The API server ends every watch after a while; the next one begins with the object as it is.
        async with contextlib.aclosing(kubectl.watch("computetasks.veilpod.dev", name)) as changes:
            async for body in changes:
                if show:
                    show("\n".join([*statuses.lines(body, now=_now()), ""]))
                if statuses.done(body):
                    break
    return Answer(value=body.get("status", {}), good=not _failed(body))


async def result(name: str, *, key: pathlib.Path, directory: pathlib.Path, kubectl: Kubectl, chain: ChainOptions) -> Answer:
    """Fetch, verify and write a result."""
    verified = await results.fetch(name, kubectl, chain, keyfiles.result_key(key))
    written = results.write(verified, directory)
    lines = [f"verified result of {name}, task {to_hex(verified.task)}"]
    lines += [f"  {_MARKS[step.holds]} {step.text}" for step in verified.checks]
    for offer, steps in verified.servers:
        lines += [f"  server {offer.statement.index}, tier {offer.statement.rung}"]
        lines += [f"    {_MARKS[step.holds]} {step.text}" for step in steps]
    lines += [f"wrote {len(written)} file{'' if len(written) == 1 else 's'}, the program's log and the statements to {directory}"]
    value = {
        "taskId": to_hex(verified.task),
        "resultHash": to_hex(verified.result_hash),
        "checks": [_step(step) for step in verified.checks],
        "servers": [
            {"index": int(o.statement.index), "tier": o.statement.rung, "steps": [_step(s) for s in ss]} for o, ss in verified.servers
        ],
        "files": [str(path) for path in written],
    }
    return Answer(value=value, lines=lines)


def verify(
    path: pathlib.Path, *, servers: Sequence[str] = (), digests: Sequence[str] = (), program: str | None = None, agent: str | None = None
) -> Answer:
    """Check statements offline. Accounts and digests are given once for each statement of the file, in its order, or not at all."""
    try:
        document = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InvalidInput("CannotRead", f"{path} is no JSON file with a statement and its signatures") from error
    items = document if isinstance(document, list) else [document]
    for given, option in ((servers, "--server"), (digests, "--digest")):
        if len(given) not in (0, len(items)):
            raise InvalidInput(
                "NotOneEach", f"the file has {len(items)} statements: give {option} once for each, in their order, or not at all"
            )
    found, lines, good = [], [], True
    for number, item in enumerate(items):
        offer = parse_offer(item, party="file")
        statement = offer.statement
        known = ladder.Known(
            server=_address(servers[number]) if servers else None,
            digest=from_hex(digests[number], 32) if digests else None,
            program=program,
            agent=agent,
        )
        steps = ladder.climb(offer, known)
        good = good and ladder.sound(steps)
        lines += [f"server {statement.index}: statement {to_hex(statement.digest)}, stands on {statement.rung}"]
        lines += [f"  {_MARKS[step.holds]} {step.text}" for step in steps]
        found.append(
            {
                "index": int(statement.index),
                "digest": to_hex(statement.digest),
                "tier": statement.rung,
                "reportData": to_hex(statement.report_data),
                "steps": [_step(step) for step in steps],
            }
        )
    return Answer(value={"sound": good, "statements": found}, lines=lines, good=good)


async def fetch_evidence(name: str, path: pathlib.Path, *, kubectl: Kubectl, release: str | None) -> Answer:
    """Save what convicts servers of breaking a task's key ceremony."""
    document = await evidence.fetch(name, kubectl, release)
    answer = _judged(document)
    if not document["evidence"]:
        return answer
    evidence.save(document, path)
    return dataclasses.replace(answer, lines=[*answer.lines, f"wrote {path}: anybody can judge it with `veilpod evidence judge`"])


def judge_evidence(path: pathlib.Path) -> Answer:
    """Judge a file of evidence offline."""
    return _judged(evidence.load(path))


def _judged(document: Any) -> Answer:
    found = evidence.verdicts(document)
    lines = [f"server {item.server} broke the key ceremony: {item.kind} ({item.account} vouched for its sandbox)" for item in found]
    value = [dataclasses.asdict(item) | {"statement": to_hex(item.statement)} for item in found]
    return Answer(value={"guilty": value}, lines=lines or ["nobody is proved guilty of breaking the key ceremony"])


async def deploy(url: str, *, key: pathlib.Path, guardian: str | None) -> Answer:
    """Deploy the contracts."""
    signer = keyfiles.chain_key(key)
    addresses = await deploy_contracts(url, signer, _address(guardian) if guardian else signer.address)
    rpc = Rpc(url)
    try:
        chain_id = await rpc.quantity("eth_chainId")
    finally:
        await rpc.close()
    value = addresses.to_json() | {"chainId": chain_id}
    return Answer(value=value, lines=statuses.table([[str(name), str(item)] for name, item in value.items()]))


async def deposit(amount: str, *, key: pathlib.Path, kubectl: Kubectl, chain: ChainOptions) -> Answer:
    """Deposit stake."""
    signer, wei = keyfiles.chain_key(key), to_units(amount)
    async with chains.opened(chain, kubectl, key=signer) as (_, link):
        await link.writer.deposit_stake(wei)
        free, locked = await link.reader.stake_of(signer.address)
    value = {"account": signer.address, "free": str(free), "locked": str(locked)}
    return Answer(value=value, lines=[f"{signer.address} has {free} wei of free stake, {locked} locked"])


async def nodes(*, kubectl: Kubectl, chain: ChainOptions) -> Answer:
    """List the directory."""
    async with chains.opened(chain, kubectl) as (_, link):
        found, now = await link.reader.directory(Role.ANY), await link.reader.now()
    value: list[dict[str, Any]] = [
        {
            "id": int(node.id),
            "roles": [role.name for role in Role if role in node.roles],
            "status": node.status.name,
            "owner": node.owner,
            "capacity": node.capacity,
            "heartbeatAge": now - node.updated_at,
            "endpoint": node.endpoint,
        }
        for node in found
    ]
    rows = [["ID", "ROLES", "STATUS", "OWNER", "CAPACITY", "HEARTBEAT", "ENDPOINT"]]
    rows += [
        [str(n["id"]), ",".join(n["roles"]), n["status"], n["owner"], str(n["capacity"]), f"{n['heartbeatAge']}s ago", n["endpoint"] or "-"]
        for n in value
    ]
    return Answer(value=value, lines=statuses.table(rows))


async def guards(*, url: str | None, kubectl: Kubectl, release: str | None) -> Answer:
    """Show what a watchtower guards."""
    found = await towers.overview(kubectl, url=url, release=release)
    return Answer(value=found, lines=towers.lines(found), good=not found.get("problem"))


async def examine(kubectl: Kubectl, *, image: str | None, runtime_classes: Sequence[str]) -> Answer:
    """Check a cluster."""
    findings = await doctor.examine(kubectl, image=image, runtime_classes=runtime_classes)
    rows = [["", "CHECK", "FOUND"], *[[item.mark, item.check, item.found] for item in findings]]
    lines = statuses.table(rows)
    remedies = [f"{item.check}: {item.remedy}" for item in findings if item.remedy and item.verdict != "pass"]
    failed = any(item.verdict == "fail" for item in findings)
    verdict = "this cluster cannot keep Veilpod's promises" if failed else "this cluster can keep Veilpod's promises"
    if any(item.verdict == "skip" for item in findings) and not failed:
        verdict += ", as far as it was checked"
    lines += ["", *(["what to do:", *[f"  {text}" for text in remedies], ""] if remedies else []), verdict]
    return Answer(value={"good": not failed, "findings": [item.document() for item in findings]}, lines=lines, good=not failed)


def _public(parts: keyfiles.PublicParts) -> Answer:
    value = {name: item for name, item in dataclasses.asdict(parts).items() if item}
    return Answer(value=value, lines=[f"{name}: {item}" for name, item in value.items()])


def _step(step: ladder.Step) -> dict[str, Any]:
    return {"holds": step.holds, "text": step.text}


def _address(text: str) -> Address:
    try:
        return parse_address(text)
    except ProtocolViolation as error:
        raise InvalidInput("InvalidAddress", str(error)) from error


def _failed(body: dict[str, Any]) -> bool:
    return body.get("status", {}).get("phase") in ("Failed", "Failing")


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
