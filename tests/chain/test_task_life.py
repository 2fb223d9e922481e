import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from tests.support.anvil import CHAIN_ID, account

from veilpod.core import identity, typed_data
from veilpod.core.canonical import canonical, keccak256
from veilpod.core.channel.state import ChannelState, channel_id, opening_state, order
from veilpod.core.entities import ChannelPhase, ChannelTerms, NodeStatus, Role, TaskPhase, Terms
from veilpod.core.ids import Address
from veilpod.core.keys import SigningKey
from veilpod.errors import ChainRejected

pytestmark = pytest.mark.chain

ETHER = 10**18
REQUESTER = 0
SERVERS = (1, 2, 3)


async def register(chain, addresses, *, roles, capacity=0, endpoint="", seed=7):
    key = ed25519.Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32)
    onion_key = bytes([seed + 100]) * 32
    proof = identity.make_proof(
        key, owner=chain.writer.address, onion_key=onion_key, key_epoch=1, registry=addresses.registry, chain_id=CHAIN_ID
    )
    public = key.public_key().public_bytes_raw()
    return await chain.writer.register(
        roles=roles, capacity=capacity, identity_key=public, onion_key=onion_key, endpoint=endpoint, proof=proof
    )


async def test_a_node_changes_its_capacity_and_saying_it_again_costs_nothing(anvil, open_chain):
    relay, server = await open_chain(1), await open_chain(2)
    node = await register(relay, anvil.addresses, roles=Role.RELAY, capacity=10_240, endpoint="192.0.2.1:9001")
    assert (await relay.reader.node(node)).capacity == 10_240
    await relay.writer.set_capacity(node, 20_480)
    assert (await relay.reader.node(node)).capacity == 20_480
    sent = len(relay.history())
    await relay.writer.set_capacity(node, 20_480)
    assert len(relay.history()) == sent

    with pytest.raises(ChainRejected, match="CallAsOwner"):
        await server.writer.set_capacity(node, 1)
    with pytest.raises(ChainRejected, match="SetCapacityForComputeOrRelayOnly"):
        await register(server, anvil.addresses, roles=Role.STORAGE, capacity=1, endpoint="192.0.2.2:9101")
    computing = await register(server, anvil.addresses, roles=Role.COMPUTE, capacity=4)
    with pytest.raises(ChainRejected, match="GiveCapacity"):
        await server.writer.set_capacity(computing, 0)
    await server.writer.set_capacity(computing, 9)
    assert (await server.reader.node(computing)).capacity == 9


async def request(chain, *, servers=3, salt=b"a task"):
    now = await chain.reader.now()
    terms = Terms(
        servers=servers, per_server=ETHER // 100, stake=ETHER // 10,
        schedule_by=now + 300, key_by=now + 600, complete_by=now + 900, report_by=now + 1200,
    )  # fmt: skip
    spec = canonical({"version": 1, "program": "the program"})
    return spec, await chain.writer.request(salt=keccak256(salt), spec=spec, terms=terms, budget=servers * ETHER // 100)


async def test_a_task_lives_from_request_to_completion(anvil, open_chain):
    requester = await open_chain(REQUESTER)
    servers = [await open_chain(index) for index in SERVERS]

    # Registration, stake, directory
    nodes = []
    for seed, server in enumerate(servers):
        nodes.append(await register(server, anvil.addresses, roles=Role.COMPUTE, capacity=4, seed=seed + 1))
        await server.writer.deposit_stake(ETHER)
    assert await servers[0].reader.stake_of(servers[0].writer.address) == (ETHER, 0)
    await requester.reader.balance(requester.writer.address)
    listed = await servers[2].reader.directory(Role.COMPUTE)
    assert [node.id for node in listed] == nodes
    for node in listed:
        identity.check_proof(node, registry=anvil.addresses.registry, chain_id=CHAIN_ID)
    assert await servers[2].reader.directory(Role.RELAY) == ()

    # Request and assignment
    spec, task = await request(requester)
    await requester.writer.assign(task, nodes, [])
    seen = await requester.reader.task(task)
    assert (seen.phase, seen.spec, seen.compute, seen.statements) == (TaskPhase.ASSIGNED, spec, tuple(nodes), ())
    for node in nodes:
        await servers[0].reader.task(task)
        assert task in await requester.reader.tasks_of(node)

    # A channel between two of them
    a, b = order(servers[0].writer.address, servers[1].writer.address)
    one, two = (servers[0], servers[1]) if a == servers[0].writer.address else (servers[1], servers[0])
    terms = ChannelTerms(asset=Address("0x" + "00" * 20), lane=int.from_bytes(task[-6:], "big"), challenge_period=3600, penalty_bps=0)
    await one.writer.open_channel(a, b, terms, deposit=ETHER, peer_deposit=ETHER)
    await one.writer.open_channel(a, b, terms, deposit=ETHER, peer_deposit=ETHER)  # again: nothing is left to do
    channel = channel_id(a, b, terms)
    opened = await one.reader.channel(channel)
    assert (opened.phase, opened.epoch, opened.balance_a) == (ChannelPhase.OPENING, 1, ETHER)
    await two.writer.join_channel(a, b, terms, epoch=1, deposit=ETHER)
    assert (await two.reader.channel(channel)).phase is ChannelPhase.OPEN

    # The key, accepted by every server
    domain = typed_data.Domain(chain_id=CHAIN_ID, contract=anvil.addresses.scheduler)
    sandbox = SigningKey(secret=keccak256(b"sandbox"))
    statements = [keccak256(bytes([index])) for index in SERVERS]
    digest = typed_data.sandbox_key_digest(domain, task, key=sandbox.address, statements_hash=typed_data.statements_hash(statements))
    signatures = b"".join(account(index).sign(digest) for index in SERVERS)
    await requester.writer.publish_key(task, key=sandbox.address, statements=statements, signatures=signatures, descriptors=b"sealed")
    seen = await requester.reader.task(task)
    assert (seen.phase, seen.key, seen.statements, seen.descriptors) == (
        TaskPhase.RUNNING, sandbox.address, tuple(statements), b"sealed",
    )  # fmt: skip

    # Two report, the third completes; the key is revoked by the result
    for index in (0, 1):
        await servers[index].writer.report(task, index)
        await servers[index].writer.report(task, index)  # again: nothing is left to do
    result_hash = keccak256(b"result")
    signature = sandbox.sign(typed_data.result_digest(domain, task, result_hash=result_hash))
    with pytest.raises(ChainRejected) as caught:
        await servers[2].writer.complete(task, index=2, result_hash=result_hash, signature=bytes(65))
    assert caught.value.reason == "GetSignatureOfTaskKey"
    await servers[2].writer.complete(task, index=2, result_hash=result_hash, signature=signature)
    seen = await servers[2].reader.task(task)
    assert (seen.phase, seen.key, seen.result_hash) == (TaskPhase.COMPLETED, None, result_hash)
    assert (seen.published_key, seen.statements) == (sandbox.address, tuple(statements))
    assert task in await servers[2].reader.tasks_of(nodes[0])
    assert await servers[2].reader.stake_of(servers[2].writer.address) == (ETHER, 0)

    # The channel closes with a state both signed
    domain = typed_data.Domain(chain_id=CHAIN_ID, contract=anvil.addresses.channels)
    state = ChannelState(version=opening_state(epoch=1, deposit_a=0, deposit_b=0).version + 1, balance_a=ETHER // 2,
                         balance_b=ETHER * 3 // 2, data_hash=bytes(32))  # fmt: skip
    close = state.close_digest(domain, channel)
    keys = {account(index).address: account(index) for index in SERVERS}
    await one.writer.close_channel(a, b, terms, state, keys[a].sign(close), keys[b].sign(close))
    assert (await one.reader.channel(channel)).phase is ChannelPhase.CLOSED

    purposes = [line.purpose for line in servers[2].history()]
    assert purposes == ["NodeRegistry.register", "TaskScheduler.depositStake", "TaskScheduler.complete"]
    assert all(line.succeeded and line.gas_used > 21_000 for line in servers[2].history())


async def test_a_registry_entry_is_kept_true(anvil, open_chain):
    chain = await open_chain(1)
    node = await register(chain, anvil.addresses, roles=Role.STORAGE, endpoint="127.0.0.1:4000")
    assert await register(chain, anvil.addresses, roles=Role.STORAGE, endpoint="127.0.0.1:4000") == node
    await chain.writer.set_endpoint(node, "127.0.0.1:4001")
    await chain.writer.set_status(node, NodeStatus.DRAINING)
    key = ed25519.Ed25519PrivateKey.from_private_bytes(bytes([7]) * 32)
    proof = identity.make_proof(
        key, owner=chain.writer.address, onion_key=b"\x42" * 32, key_epoch=2, registry=anvil.addresses.registry, chain_id=CHAIN_ID
    )
    await chain.writer.rotate_key(node, onion_key=b"\x42" * 32, proof=proof)
    anvil.advance(100)
    await chain.writer.heartbeat(node)
    seen = await chain.reader.node(node)
    assert (seen.endpoint, seen.status, seen.key_epoch, seen.onion_key) == ("127.0.0.1:4001", NodeStatus.DRAINING, 2, b"\x42" * 32)
    assert await chain.reader.now() - seen.updated_at < 5
    identity.check_proof(seen, registry=anvil.addresses.registry, chain_id=CHAIN_ID)

    resource = await chain.writer.add_resource(node=node, name="wdbc", digest=b"\x01" * 32, size=1000)
    (found,) = await chain.reader.resources_named("wdbc")
    assert (found.id, found.size, found.name, found.owner) == (resource, 1000, "wdbc", chain.writer.address)
    await chain.writer.revoke_resource(resource)
    revoked = await chain.reader.resource(resource)
    assert revoked is not None
    assert revoked.revoked
    assert await chain.reader.resources_named("unknown") == ()
