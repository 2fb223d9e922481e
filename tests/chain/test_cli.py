"""The commands that speak to a chain, against a real node; and a whole result, verified or refused."""

import asyncio
import contextlib
import dataclasses
import hashlib
import json

import pytest
import yaml
from tests.chain.test_task_life import register
from tests.support import ceremonies, sandboxes, stores
from tests.support.anvil import CHAIN_ID, account, caught_up
from tests.support.fake_kubectl import kubectl

from veilpod.chain import Addresses
from veilpod.cli import main
from veilpod.core import dataset
from veilpod.core import result as results
from veilpod.core.canonical import to_hex
from veilpod.core.ceremony.words import Ceremony
from veilpod.core.dataset_spec import resource_id
from veilpod.core.entities import Role
from veilpod.core.ids import NodeId, ServerIndex
from veilpod.core.keys import custody_key
from veilpod.core.meeting import ResultPiece, sign_author
from veilpod.core.sealing import HybridPrivateKey, recipient_text
from veilpod.core.store_messages import TaskTerms
from veilpod.core.task.spec import Deadlines, Payment, Program, Quorum, ResultSpec, TaskRole, TaskSpec, Topology, make_terms
from veilpod.core.typed_data import Domain, result_digest, sandbox_key_digest, statements_hash

__all__ = ["kubectl"]

pytestmark = pytest.mark.chain

ETHER = 10**18
RECIPIENT = HybridPrivateKey.from_bytes(b"\x42" * 96)


@pytest.fixture
def veilpod(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))

    async def run(*arguments):
        code = await asyncio.to_thread(main, [str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return run


def key_file(directory, index):
    file = directory / f"account-{index}.key"
    file.write_text(account(index).secret.hex())
    return file


def contracts_file(directory, anvil):
    file = directory / "contracts.json"
    file.write_text(json.dumps(anvil.addresses.to_json() | {"chainId": CHAIN_ID}))
    return file


async def test_contracts_are_deployed_and_the_answer_is_what_other_commands_read(anvil, veilpod, tmp_path):
    code, out, _ = await veilpod("chain", "deploy", "--rpc", anvil.url, "--key", key_file(tmp_path, 0), "--output", "json")
    assert code == 0
    answer = json.loads(out)
    assert answer["chainId"] == CHAIN_ID
    assert Addresses.from_json(answer).registry != anvil.addresses.registry
    (tmp_path / "mine.json").write_text(out)
    code, out, _ = await veilpod(
        "node", "list", "--rpc", anvil.url, "--contracts", tmp_path / "mine.json", "--confirmations", "0", "--output", "json"
    )
    assert (code, json.loads(out)) == (0, [])


async def test_an_owner_registers_and_revokes_a_data_set_and_a_server_deposits_stake(anvil, open_chain, veilpod, tmp_path, kubectl):
    store = await open_chain(1)
    node = await register(store, anvil.addresses, roles=Role.STORAGE, endpoint="10.0.0.1:9101")
    header = dataset.make_header(name="north", custodian=custody_key(account(1)).public_bytes, data_key=b"k" * 32, prefix=b"p" * 8)
    sealed = b"".join(dataset.seal_stream([b"rows"], header=header, data_key=b"k" * 32))
    (tmp_path / "north.sealed").write_bytes(sealed)
    chain = ("--rpc", anvil.url, "--contracts", contracts_file(tmp_path, anvil), "--confirmations", "0", "--key", key_file(tmp_path, 2))

    code, out, _ = await veilpod("dataset", "register", tmp_path / "north.sealed", "--node", node, *chain, "--output", "json")
    assert (code, json.loads(out)["resource"]) == (0, to_hex(resource_id(account(2).address, "north")))
    await caught_up(store, anvil)
    found = await store.reader.resource(resource_id(account(2).address, "north"))
    assert (found.digest, found.size, found.node, found.revoked) == (hashlib.sha256(sealed).digest(), len(sealed), node, False)

    code, out, _ = await veilpod("dataset", "revoke", "north", *chain)
    assert code == 0
    assert "no further grants" in out
    assert (await veilpod("dataset", "revoke", "north", *chain))[0] == 0
    assert (await veilpod("dataset", "revoke", "south", *chain))[0] == 2

    code, out, _ = await veilpod("stake", "deposit", "0.5", *chain, "--output", "json")
    assert (code, json.loads(out)["free"]) == (0, str(ETHER // 2))
    assert (await veilpod("stake", "deposit", "a lot", *chain))[0] == 2

    code, out, _ = await veilpod("node", "list", *chain[:6])
    assert code == 0
    assert "STORAGE" in out
    assert "10.0.0.1:9101" in out


async def test_another_chain_behind_the_endpoint_is_refused(anvil, veilpod, tmp_path, kubectl):
    code, _, err = await veilpod(
        "node", "list", "--rpc", anvil.url, "--contracts", contracts_file(tmp_path, anvil), "--chain-id", "5", "--confirmations", "0"
    )
    assert code == 2
    assert "WrongChain" in err


async def test_an_endpoint_that_does_not_answer_is_worth_another_try(veilpod, anvil, tmp_path, kubectl):
    code, _, err = await veilpod(
        "node", "list", "--rpc", "http://127.0.0.1:9", "--contracts", contracts_file(tmp_path, anvil), "--confirmations", "0"
    )
    assert code == 3
    assert "ChainUnavailable" in err


@dataclasses.dataclass
class Finished:
    """A task on chain whose result lies in a running mailbox."""

    task: bytes
    servers: list
    service: stores.Service
    complete: object
    result_hash: bytes
    arguments: tuple


@contextlib.asynccontextmanager
async def finished(anvil, open_chain, tmp_path, kubectl, *, in_mailbox=None):
    requester, *servers = [await open_chain(index) for index in (0, 1, 2)]
    nodes = []
    for seed, server in enumerate(servers):
        nodes.append(await register(server, anvil.addresses, roles=Role.COMPUTE, capacity=4, seed=seed + 1))
        await server.writer.deposit_stake(ETHER)

    spec = TaskSpec(
        program=Program(image="registry.example/fedavg@sha256:" + "b" * 64, command=("run",), env=(), cpu="1", memory=1 << 28),
        roles=(TaskRole(name="site", replicas=2, args=()),),
        topology=Topology(),
        inputs=(),
        result=ResultSpec(sender=ServerIndex(1), recipient=recipient_text(RECIPIENT.public_bytes), max_size=1 << 20, mailbox=NodeId(9)),
        payment=Payment(per_server=ETHER // 100, per_transfer_mib=1, channel_deposit=1),
        deadlines=Deadlines(schedule=300, inputs=300, compute=300, total=1000),
        quorum=Quorum(),
        hops=3,
        relays="Any",
        sandbox_class="standard",
    )
    terms = make_terms(spec, now=await requester.reader.now(), stake=ETHER // 10)
    task = await requester.writer.request(salt=b"s" * 32, spec=spec.encode(), terms=terms, budget=ETHER // 10)
    await requester.writer.assign(task, nodes, [])

    domain = Domain(chain_id=CHAIN_ID, contract=anvil.addresses.scheduler)
    keys = [dataclasses.replace(sandboxes.keys(number + 1), server=account(number + 1)) for number in range(2)]
    offers = [sandboxes.offer(key, index=index, task=task) for index, key in enumerate(keys)]
    digests = [offer.statement.digest for offer in offers]
    signing = [key.signing for key in keys]
    ceremony = Ceremony(task=task, statements=statements_hash(digests), signers=tuple(key.address for key in signing))
    posts, group = ceremonies.play(ceremonies.members(ceremony, signing))
    digest = sandbox_key_digest(domain, task, key=group.address, statements_hash=statements_hash(digests))
    signatures = b"".join(key.server.sign(digest) for key in keys)
    await requester.writer.publish_key(task, key=group.address, statements=digests, signatures=signatures, descriptors=b"[]")

    archive = results.pack([results.Entry(path="model/weights.txt", data=b"0.5\n")], limit=1 << 20)
    made = results.Result(archive=archive, log=results.Log(stdout=b"trained\n"))
    sealed = results.seal_result(made, task=task, recipient=RECIPIENT.public_bytes)
    result_hash = results.result_hash(task, sealed)
    signature = group.sign(result_digest(domain, task, result_hash=result_hash))

    async with stores.running(tmp_path / "mailbox") as service:
        service.mailbox.announce(
            TaskTerms(task=task, owners=tuple(k.server.address for k in keys), result_from=ServerIndex(1), max_size=1 << 20, domain=domain)
        )
        for offer in offers:
            await service.mailbox.put_offer(offer.document())
        for stage in posts:
            await asyncio.gather(*(service.mailbox.put_ceremony(post.document()) for post in stage))
        digest = hashlib.sha256(sealed).digest()
        author = sign_author(task, digest, keys[1].signing)
        piece = ResultPiece(task=task, offset=0, total=len(sealed), digest=digest, signature=signature, author=author, chunk=sealed)
        assert (await service.mailbox.put_result(piece.document()))["complete"]

        labels = {"app.kubernetes.io/name": "veilpod", "app.kubernetes.io/component": "mailbox"}
        config = {
            "chain": {
                "rpcUrl": "http://anvil.chain.svc:8545",
                "chainId": CHAIN_ID,
                "confirmations": 0,
                "contracts": {name: getattr(anvil.addresses, name) for name in ("registry", "scheduler", "channels")},
            }
        }
        kubectl.objects = {
            "computetasks.veilpod.dev/tumour": {"metadata": {"name": "tumour"}, "status": {"taskId": to_hex(task)}},
            "pods/institute-mailbox-0": {"metadata": {"name": "institute-mailbox-0", "labels": labels}},
            "configmaps/institute-operator": {
                "metadata": {"name": "institute-operator", "labels": labels | {"app.kubernetes.io/component": "operator"}},
                "data": {"config.yaml": yaml.safe_dump(config)},
            },
        }
        # The chain of the release is inside the cluster, so it is reached by port-forward, too.
        kubectl.forwards = {"pod/institute-mailbox-0:9102": service.upload.port, "service/anvil:8545": anvil.port}
        kubectl.save()
        (tmp_path / "result.key").write_text(RECIPIENT.to_bytes().hex())

        async def complete(hashed=result_hash):
            await servers[0].writer.report(task, 0)
            signed = group.sign(result_digest(domain, task, result_hash=hashed))
            await servers[1].writer.complete(task, index=1, result_hash=hashed, signature=signed)

        arguments = ("result", "tumour", "-n", "institute", "--key", tmp_path / "result.key", "-o", tmp_path / "result")
        yield Finished(task=task, servers=servers, service=service, complete=complete, result_hash=result_hash, arguments=arguments)


async def test_a_result_is_fetched_verified_against_the_chain_and_written(anvil, open_chain, veilpod, tmp_path, kubectl):
    async with finished(anvil, open_chain, tmp_path, kubectl) as found:
        await found.complete()
        code, out, err = await veilpod(*found.arguments)
        assert (code, err) == (0, "")
        assert f"✓ the chain's result hash is this result's: {to_hex(found.result_hash)}" in out
        assert out.count("✓ countersigned by its server") == 2
        assert "✓ the task key was made by all 2 sandboxes together" in out
        assert "✓ the result was made in the sandbox of server 1" in out
        assert "✗ T1 Sandboxed" in out
        assert (tmp_path / "result/out/model/weights.txt").read_bytes() == b"0.5\n"
        assert (tmp_path / "result/stdout.log").read_bytes() == b"trained\n"
        assert (await veilpod("verify", tmp_path / "result/statements.json"))[0] == 0

        code, _, err = await veilpod(*found.arguments)
        assert code == 2
        assert "left as it is" in err


async def test_a_result_that_is_not_on_chain_yet_says_so(anvil, open_chain, veilpod, tmp_path, kubectl):
    async with finished(anvil, open_chain, tmp_path, kubectl) as found:
        code, out, _ = await veilpod(*found.arguments, "--output", "json")
        assert code == 0
        assert [check["holds"] for check in json.loads(out)["checks"]] == [True, None, True, True, True]


async def test_a_result_that_the_chain_does_not_name_is_not_written(anvil, open_chain, veilpod, tmp_path, kubectl):
    async with finished(anvil, open_chain, tmp_path, kubectl) as found:
        await found.complete(b"\x01" * 32)
        code, _, err = await veilpod(*found.arguments)
        assert code == 1
        assert "ResultRefused" in err
        assert not (tmp_path / "result").exists()


async def test_a_result_for_somebody_else_is_not_opened(anvil, open_chain, veilpod, tmp_path, kubectl):
    async with finished(anvil, open_chain, tmp_path, kubectl) as found:
        (tmp_path / "result.key").write_text(HybridPrivateKey.generate().to_bytes().hex())
        code, _, err = await veilpod(*found.arguments)
        assert code == 1
        assert "CannotOpen" in err
        assert not (tmp_path / "result").exists()


async def test_statements_that_are_not_the_chains_are_refused(anvil, open_chain, veilpod, tmp_path, kubectl):
    async with finished(anvil, open_chain, tmp_path, kubectl) as found:
        other = dataclasses.replace(sandboxes.keys(1), server=account(1))
        box = found.service.mailbox._boxes[found.task]
        box.offers[ServerIndex(0)] = dataclasses.replace(
            sandboxes.offer(other, index=0, task=found.task),
            statement=dataclasses.replace(box.offers[ServerIndex(0)].statement, tier="T1"),
        )
        code, _, err = await veilpod(*found.arguments)
        assert code == 1
        assert "StatementRefused" in err


async def test_a_mailbox_without_the_result_says_where_to_look(anvil, open_chain, veilpod, tmp_path, kubectl):
    async with finished(anvil, open_chain, tmp_path, kubectl) as found:
        (tmp_path / "mailbox/mailbox" / found.task.hex() / "result.bin").unlink()
        code, _, err = await veilpod(*found.arguments)
        assert code == 1
        assert "veilpod task status" in err
