"""What users of the contracts pay: the gasUsed of receipts, from the bytecode that the package ships, on a node of its own.

Every party exists before it is paid and has a balance afterwards; every call is a transaction of its own. What else each row
stands for is said where it is measured. The bars are those of the design, the peers' columns what Perun and Nitro pay for the
same operations, measured the same way.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import eth_abi.abi
from tests.support.anvil import Anvil, account

from bench import report
from bench.chainside import ETHER, Measured, deploy, deploy_token, running
from veilpod.core import typed_data
from veilpod.core.canonical import keccak256
from veilpod.core.channel.state import ChannelState, channel_id, order, pack_terms
from veilpod.core.entities import ChannelTerms, channel_version
from veilpod.core.ids import Address, ChannelId, TaskId
from veilpod.core.keys import SigningKey, checksum_address

ETH = Address(checksum_address(bytes(20)))
DEPOSIT_A, DEPOSIT_B = 3 * ETHER, ETHER
PERIOD = 3600
STORAGE, COMPUTE, RELAY = 2, 4, 8
DRAINING = 2
PROOF = (keccak256(b"r"), keccak256(b"s"))  # the registry does not look at it

# row -> (bar, Perun, Nitro). None: the peer has no such operation.
BARS: dict[str, tuple[int, int | None, int | None]] = {
    "deploy": (2_010_000, 3_630_279, 4_076_553),
    "open-two-tx": (75_900, 91_704, 76_084),
    "open-one-tx": (53_400, None, None),
    "reopen-two-tx": (58_800, 91_704, 76_084),
    "reopen-one-tx": (36_400, None, None),
    "close": (55_000, 226_351, 92_447),
    "challenge": (36_600, 100_582, 113_278),
    "respond": (38_200, 68_183, 74_080),
    "settle": (47_000, 178_668, 61_358),
    "erc20-close": (57_700, 239_135, 98_716),
    "erc20-open-two-tx": (136_300, 145_208, 130_580),
    "erc20-open-one-tx": (87_900, None, None),
    "register": (121_000, None, None),
    "rotate-key": (36_000, None, None),
    "set-status": (32_000, None, None),
    "set-capacity": (32_000, None, None),
    "request": (74_000, None, None),
    "assign": (55_000, None, None),
    "publish-key": (92_000, None, None),
    "complete": (40_000, None, None),
}


@dataclasses.dataclass(frozen=True, slots=True)
class Pair:
    """Two parties and the channel between them."""

    manager: Measured
    a: SigningKey
    b: SigningKey
    terms: ChannelTerms

    @property
    def id(self) -> tuple[str, str, int]:
        """The channel as the contract takes it."""
        return self.a.address, self.b.address, pack_terms(self.terms)

    @property
    def value(self) -> int:
        """One when deposits are in the chain's coin, zero for a token: what a deposit is multiplied with for msg.value."""
        return int(self.terms.asset == ETH)

    def open_and_join(self, epoch: int) -> int:
        """A opens, b joins: two transactions."""
        opened = self.manager.call(self.a, "open", self.id, DEPOSIT_A, DEPOSIT_B, value=DEPOSIT_A * self.value)
        return opened + self.manager.call(self.b, "join", self.id, epoch, value=DEPOSIT_B * self.value)

    def open_both(self, epoch: int) -> int:
        """A opens with b's signed request: one transaction."""
        deadline = 2_000_000_000
        digest = typed_data.open_digest(
            self.manager.domain, channel_id(self.a.address, self.b.address, self.terms),
            epoch=epoch, deposit_a=DEPOSIT_A, deposit_b=DEPOSIT_B, deadline=deadline,
        )  # fmt: skip
        arguments = (self.id, DEPOSIT_A, DEPOSIT_B, deadline, self.b.sign(digest))
        return self.manager.call(self.a, "openBoth", *arguments, value=DEPOSIT_A * self.value)

    def close(self, epoch: int) -> int:
        """B closes with a's consent; both are paid."""
        state = self._state(epoch, 9, 2 * ETHER)
        return self.manager.call(self.b, "close", self.id, _packed(state), self.a.sign(state.close_digest(*self._for())), b"")

    def challenge(self, epoch: int, sequence: int) -> int:
        """B challenges with a state that a signed."""
        state = self._state(epoch, sequence, 2 * ETHER)
        return self.manager.call(self.b, "challenge", self.id, _packed(state), self.a.sign(state.digest(*self._for())))

    def respond(self, epoch: int, sequence: int) -> int:
        """A responds with a newer state that b signed; as the sender it has signed itself."""
        state = self._state(epoch, sequence, 5 * ETHER // 2)
        return self.manager.call(self.a, "respond", self.id, _packed(state), b"", self.b.sign(state.digest(*self._for())))

    def finalize(self) -> int:
        """A ends the dispute after the period; both are paid."""
        self.manager.node.advance(PERIOD + 1)
        return self.manager.call(self.a, "finalize", self.id)

    def _state(self, epoch: int, sequence: int, balance_a: int) -> ChannelState:
        return ChannelState(
            version=channel_version(epoch, sequence),
            balance_a=balance_a,
            balance_b=DEPOSIT_A + DEPOSIT_B - balance_a,
            data_hash=keccak256(b"transcript"),
        )

    def _for(self) -> tuple[typed_data.Domain, ChannelId]:
        return self.manager.domain, channel_id(self.a.address, self.b.address, self.terms)


def _packed(state: ChannelState) -> tuple[int, int, int, bytes]:
    return state.version, state.balance_a, state.balance_b, state.data_hash


def channels(node: Anvil) -> Iterator[tuple[str, int]]:
    """Yield the channel manager's rows. `deploy` is the deployment of this contract."""
    manager, used = deploy(node, "ChannelManager")
    yield "deploy", used
    keys = {key.address: key for key in (account(1), account(2))}
    a, b = (keys[address] for address in order(*keys))

    def pair(lane: int, asset: Address = ETH) -> Pair:
        return Pair(manager, a, b, ChannelTerms(asset=asset, lane=lane, challenge_period=PERIOD, penalty_bps=1000))

    two = pair(1)
    yield "open-two-tx", two.open_and_join(1)
    yield "close", two.close(1)
    yield "reopen-two-tx", two.open_and_join(2)
    yield "challenge", two.challenge(2, 5)
    yield "respond", two.respond(2, 6)
    yield "settle", two.finalize()

    # The peer's credit is what its request asks for, no more: it is spent to the last wei.
    one = pair(2)
    manager.call(b, "depositCredit", value=DEPOSIT_B)
    yield "open-one-tx", one.open_both(1)
    one.close(1)
    manager.call(b, "depositCredit", value=DEPOSIT_B)
    yield "reopen-one-tx", one.open_both(2)
    one.close(2)
    manager.call(b, "depositCredit", value=2 * DEPOSIT_B)
    yield "reopen-one-tx, credit left", one.open_both(3)

    token = deploy_token(node, (a, b), spender=manager.address)
    first, second = pair(3, token), pair(4, token)
    yield "erc20-open-two-tx", first.open_and_join(1)
    # The manager holds some of the token, as it does in a net of channels: 17,100 less than for the first channel in it.
    yield "erc20-open-one-tx", second.open_both(1)
    yield "erc20-close, others open", second.close(1)
    yield "erc20-close", first.close(1)


def nodes(node: Anvil) -> Iterator[tuple[str, int]]:
    """Yield the registry's rows: a relay, not the first node there is."""
    registry, _ = deploy(node, "NodeRegistry", account(9).address)
    owner = account(1)
    register(registry, owner, RELAY)
    yield "register", register(registry, owner, RELAY)
    yield "rotate-key", registry.call(owner, "rotateKey", 2, keccak256(b"next"), PROOF)
    yield "set-status", registry.call(owner, "setStatus", 2, DRAINING)
    yield "set-capacity", registry.call(owner, "setCapacity", 2, 20_480)


def register(registry: Measured, owner: SigningKey, roles: int) -> int:
    """Register one more node."""
    capacity = {COMPUTE: 8, RELAY: 10_240}.get(roles, 0)
    return registry.call(owner, "register", roles, capacity, keccak256(b"identity"), keccak256(b"onion"), "192.0.2.1:9001", PROOF)


def tasks(node: Anvil, servers: int) -> Iterator[tuple[str, int]]:
    """Yield the scheduler's rows: a task on some servers and one store, whose nodes have served before; every server is honest."""
    registry, _ = deploy(node, "NodeRegistry", account(9).address)
    scheduler, _ = deploy(node, "TaskScheduler", registry.address)
    owners = [account(index) for index in range(1, servers + 1)]
    for owner in owners:
        register(registry, owner, COMPUTE)
        scheduler.call(owner, "depositStake", value=2 * ETHER)
    register(registry, account(8), STORAGE)
    dict(task(scheduler, owners, b"first"))
    yield from task(scheduler, owners, b"second")


def task(scheduler: Measured, owners: Sequence[SigningKey], salt: bytes) -> Iterator[tuple[str, int]]:
    """Run one task from request to result."""
    requester, key = account(0), SigningKey(secret=keccak256(b"task key"))
    servers = len(owners)
    terms = (servers, ETHER // 10, ETHER, *(scheduler.now() + 3600 * hours for hours in (1, 2, 3, 4)))
    salt = keccak256(salt)
    spec = b"spec"  # each byte more costs 16 in calldata and 8 in the event
    yield "request", scheduler.call(requester, "request", salt, spec, terms, value=servers * ETHER // 10)

    name = TaskId(keccak256(eth_abi.abi.encode(["address", "bytes32"], [requester.address, salt])))
    nodes = list(range(1, servers + 1))
    yield "assign", scheduler.call(requester, "assign", name, nodes, [servers + 1])

    statements = [keccak256(owner.address.encode()) for owner in owners]
    digest = typed_data.sandbox_key_digest(
        scheduler.domain, name, key=key.address, statements_hash=typed_data.statements_hash(statements)
    )  # fmt: skip
    signatures = b"".join(owner.sign(digest) for owner in owners)
    yield "publish-key", scheduler.call(requester, "publishKey", name, key.address, statements, signatures, b"descriptors")

    for index, owner in enumerate(owners[:-1]):
        yield "report", scheduler.call(owner, "report", name, index)
    result = keccak256(b"result")
    signature = key.sign(typed_data.result_digest(scheduler.domain, name, result_hash=result))
    yield "complete", scheduler.call(owners[-1], "complete", name, servers - 1, result, signature)


def main() -> None:
    """Measure, print and write build/bench/contracts.json."""
    with running() as node:
        measured = dict(channels(node)) | dict(nodes(node)) | dict(tasks(node, 1))
        three = dict(tasks(node, 3))
    report.write("contracts", [report.Row(name, measured[name], "gas", bar=bar) for name, (bar, _, _) in BARS.items()])

    print(f"\n{'':28}{'ours':>14}{'Perun':>14}{'Nitro':>14}")
    for name, (_, *peers) in BARS.items():
        if any(peers):
            print(f"{name:28}{measured[name]:>14,}" + "".join(f"{'-' if gas is None else f'{gas:,}':>14}" for gas in peers))

    print("\nthe same elsewhere")
    elsewhere = {name: gas for name, gas in measured.items() if name not in BARS}
    for name, gas in (elsewhere | {f"{name}, three servers": gas for name, gas in three.items()}).items():
        print(f"{name:42}{gas:>14,}")


if __name__ == "__main__":
    main()
