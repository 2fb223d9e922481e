"""What an operator and its own agent say to each other on the control stream, as values: both ends read and write these.

Commands and events are named in docs/protocol/task.md, "Control stream". The values of other conversations are in `meeting`, `statement`
and `receipt`.
"""

import dataclasses
from typing import Any

from veilpod.core.canonical import canonical, tagged_digest, to_hex
from veilpod.core.endpoint import parse_endpoint, spell_endpoint
from veilpod.core.fields import Fields, address_bytes
from veilpod.core.ids import Address, NodeId, PodUid, ServerIndex, TaskId
from veilpod.core.keys import SIGNATURE_BYTES, SigningKey, recover
from veilpod.core.meeting import FAILURES, MAX_SERVERS
from veilpod.core.onion.directory import RelayEntry
from veilpod.core.onion.trouble import TROUBLES
from veilpod.core.task.spec import TaskSpec, decode_spec
from veilpod.core.tiers import OBSERVABLE
from veilpod.core.typed_data import Domain
from veilpod.errors import ProtocolViolation

ZEROISED_TAG = "veilpod.zeroised.v1"
ENDINGS = frozenset({"Exited", "Signaled", "Deadline", "NotStarted", "Stopped", "NotConfined"})
_MAX_RELAYS = 10_000
_AGENT = "agent"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class NodeKey:
    """A store with an input for this sandbox: whose it is, and the onion key that opens a descriptor."""

    node: NodeId
    owner: Address
    onion_key: bytes


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MailboxEntry:
    """The requester's mailbox, reached through a circuit that exits to `host`:`port`."""

    node: NodeId
    onion_key: bytes
    host: str
    port: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """All that an agent is told about its task, once."""

    task: TaskId
    index: ServerIndex
    incarnation: int
    pod_uid: PodUid
    spec: TaskSpec
    servers: tuple[Address, ...]  # the assigned servers' accounts, by index
    directory: tuple[RelayEntry, ...]
    mailbox: MailboxEntry
    stores: tuple[NodeKey, ...]
    policy_hash: bytes
    tier: str  # that the SandboxClass promises
    host_access_denied: bool
    confinement_required: bool  # no key where the kernel cannot keep the program to its ports
    agent_image: str
    program_image: str
    nonce: bytes
    domain: Domain  # of TaskScheduler

    def document(self) -> dict[str, Any]:
        """The args of `configure`."""
        return {
            "taskId": to_hex(self.task),
            "index": int(self.index),
            "incarnation": self.incarnation,
            "podUid": self.pod_uid,
            "spec": self.spec.document(),
            "servers": [to_hex(address_bytes(owner)) for owner in self.servers],
            "directory": [entry.to_json() for entry in self.directory],
            "mailbox": {
                "nodeId": int(self.mailbox.node),
                "onionKey": to_hex(self.mailbox.onion_key),
                "endpoint": spell_endpoint(self.mailbox.host, self.mailbox.port),
            },
            "stores": [
                {"nodeId": int(store.node), "owner": to_hex(address_bytes(store.owner)), "onionKey": to_hex(store.onion_key)}
                for store in self.stores
            ],
            "policyHash": to_hex(self.policy_hash),
            "tier": self.tier,
            "hostAccessDenied": self.host_access_denied,
            "confinementRequired": self.confinement_required,
            "images": {"agent": self.agent_image, "program": self.program_image},
            "nonce": to_hex(self.nonce),
            "domain": {"chainId": self.domain.chain_id, "contract": to_hex(address_bytes(self.domain.contract))},
        }


def parse_configuration(value: Any) -> Configuration:
    """Read the args of `configure`. Raises ProtocolViolation."""
    fields = Fields(value, what="configuration", party="operator")
    images, domain = fields.fields("images"), fields.fields("domain")
    owners = fields.items("servers", maximum=MAX_SERVERS)
    configuration = Configuration(
        task=TaskId(fields.data("taskId", 32)),
        index=ServerIndex(fields.integer("index", maximum=MAX_SERVERS - 1)),
        incarnation=fields.integer("incarnation", maximum=1 << 31),
        pod_uid=PodUid(fields.text("podUid", maximum=64)),
        spec=decode_spec(canonical(fields.take("spec"))),
        servers=tuple(Fields({"owner": owner}, what="configuration.servers", party="operator").address("owner") for owner in owners),
        directory=tuple(RelayEntry.from_json(_object(entry)) for entry in fields.items("directory", maximum=_MAX_RELAYS)),
        mailbox=_mailbox(fields.fields("mailbox")),
        stores=tuple(_store(item) for item in fields.items("stores", maximum=256)),
        policy_hash=fields.data("policyHash", 32),
        tier=fields.choice("tier", frozenset(OBSERVABLE)),
        host_access_denied=fields.flag("hostAccessDenied"),
        confinement_required=fields.flag("confinementRequired"),
        agent_image=images.text("agent", maximum=71),
        program_image=images.text("program", maximum=71),
        nonce=fields.data("nonce", 32),
        domain=Domain(chain_id=domain.integer("chainId", minimum=1), contract=domain.address("contract")),
    )
    for part in (images, domain, fields):
        part.done()
    if len(configuration.servers) != len(configuration.spec.servers) or configuration.index >= len(configuration.servers):
        raise fields.violation("names other servers than its specification has roles for")
    return configuration


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """The KeyPublished event, handed on. `descriptors` are its bytes as they stand on chain."""

    key: Address
    statements: tuple[bytes, ...]
    descriptors: bytes

    def document(self) -> dict[str, Any]:
        """The args of `published`."""
        return {
            "key": to_hex(address_bytes(self.key)),
            "statements": [to_hex(digest) for digest in self.statements],
            "descriptors": to_hex(self.descriptors),
        }


def parse_published(value: Any) -> Published:
    """Read the args of `published`. Raises ProtocolViolation."""
    fields = Fields(value, what="published", party="operator")
    published = Published(key=fields.address("key"), statements=_digests(fields), descriptors=fields.data("descriptors"))
    fields.done()
    return published


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class OffersCollected:
    """Event `offers`: every statement digest by index, and the task key that follows from them.

    The operator signs SandboxKey over these.
    """

    key: Address
    statements: tuple[bytes, ...]
    statements_hash: bytes
    signers: tuple[Address, ...]  # the sandbox keys that the statements name: whose receipts count

    def document(self) -> dict[str, Any]:
        """The event's data."""
        return {
            "key": to_hex(address_bytes(self.key)),
            "statements": [to_hex(digest) for digest in self.statements],
            "statementsHash": to_hex(self.statements_hash),
            "signers": [to_hex(address_bytes(signer)) for signer in self.signers],
        }


def parse_offers(value: Any) -> OffersCollected:
    """Read the event `offers`. Raises ProtocolViolation."""
    fields = Fields(value, what="offers", party=_AGENT)
    signers = fields.items("signers", maximum=MAX_SERVERS)
    offers = OffersCollected(
        key=fields.address("key"),
        statements=_digests(fields),
        statements_hash=fields.data("statementsHash", 32),
        signers=tuple(Fields({"signer": signer}, what="offers", party=_AGENT).address("signer") for signer in signers),
    )
    fields.done()
    return offers


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SealedResultInfo:
    """Event `result`: what `complete` needs. `digest` is SHA-256 of the sealed result, `signature` the task key's over EIP-712 Result."""

    result_hash: bytes
    digest: bytes
    size: int
    signature: bytes

    def document(self) -> dict[str, Any]:
        """The event's data."""
        return {
            "resultHash": to_hex(self.result_hash),
            "digest": to_hex(self.digest),
            "size": self.size,
            "signature": to_hex(self.signature),
        }


def parse_sealed_result(value: Any) -> SealedResultInfo:
    """Read the event `result`. Raises ProtocolViolation."""
    fields = Fields(value, what="result", party=_AGENT)
    info = SealedResultInfo(
        result_hash=fields.data("resultHash", 32),
        digest=fields.data("digest", 32),
        size=fields.integer("size", minimum=1),
        signature=fields.data("signature", SIGNATURE_BYTES),
    )
    fields.done()
    return info


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Exit:
    """Event `exited`: how the program ended, with its exit code or signal number. Success is Exited with 0."""

    how: str
    code: int

    @property
    def success(self) -> bool:
        """Whether the program says that it did what it should."""
        return self.how == "Exited" and self.code == 0

    def document(self) -> dict[str, Any]:
        """The event's data."""
        return {"how": self.how, "code": self.code}


def parse_exit(value: Any) -> Exit:
    """Read the event `exited`. Raises ProtocolViolation."""
    fields = Fields(value, what="exit", party=_AGENT)
    ended = Exit(how=fields.choice("how", ENDINGS), code=fields.integer("code", maximum=255))
    fields.done()
    return ended


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Flushed:
    """Event `flushed`: every peer link has ended and every byte has its receipt; (peer, bytes sent, bytes received) for each."""

    links: tuple[tuple[ServerIndex, int, int], ...]

    def document(self) -> dict[str, Any]:
        """The event's data."""
        return {"links": [{"peer": int(peer), "sent": sent, "received": received} for peer, sent, received in self.links]}


def parse_flushed(value: Any) -> Flushed:
    """Read the event `flushed`. Raises ProtocolViolation."""
    fields = Fields(value, what="flushed", party=_AGENT)
    links = []
    for item in fields.items("links", maximum=MAX_SERVERS):
        link = Fields(item, what="flushed.links", party=_AGENT)
        peer = ServerIndex(link.integer("peer", maximum=MAX_SERVERS - 1))
        links.append((peer, link.integer("sent"), link.integer("received")))
        link.done()
    fields.done()
    return Flushed(links=tuple(links))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """Event `failed`. Not `fatal`: the sandbox goes on without `peer`."""

    code: str
    fatal: bool = True
    peer: ServerIndex | None = None

    def document(self) -> dict[str, Any]:
        """The event's data."""
        return {"code": self.code, "fatal": self.fatal} | ({} if self.peer is None else {"peer": int(self.peer)})


def parse_failed(value: Any) -> Failed:
    """Read the event `failed`. Raises ProtocolViolation."""
    fields = Fields(value, what="failed", party=_AGENT)
    peer = ServerIndex(fields.integer("peer", maximum=MAX_SERVERS - 1)) if "peer" in fields.names() else None
    failed = Failed(code=fields.choice("code", FAILURES), fatal=fields.flag("fatal"), peer=peer)
    fields.done()
    return failed


def parse_relays(value: Any) -> str:
    """Read the event `relays`: what keeps circuits from being made now, "" when one was made. Raises ProtocolViolation."""
    fields = Fields(value, what="relays", party=_AGENT)
    trouble = fields.choice("trouble", TROUBLES | {""})
    fields.done()
    return trouble


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Zeroised:
    """The answer to `zeroise` and the event `zeroised`: the last thing that a sandbox key signs."""

    task: TaskId
    pod_uid: PodUid
    signature: bytes

    def document(self) -> dict[str, Any]:
        """The JSON form."""
        return {"taskId": to_hex(self.task), "podUid": self.pod_uid, "signature": to_hex(self.signature)}


def make_zeroised(task: TaskId, pod_uid: PodUid, key: SigningKey) -> Zeroised:
    """Sign the promise that keys and volumes are wiped, in the moment before the key is."""
    return Zeroised(task=task, pod_uid=pod_uid, signature=key.sign(_zeroised_digest(task, pod_uid)))


def parse_zeroised(value: Any) -> Zeroised:
    """Read it. Raises ProtocolViolation."""
    fields = Fields(value, what="zeroised", party=_AGENT)
    zeroised = Zeroised(
        task=TaskId(fields.data("taskId", 32)),
        pod_uid=PodUid(fields.text("podUid", maximum=64)),
        signature=fields.data("signature", SIGNATURE_BYTES),
    )
    fields.done()
    return zeroised


def verify_zeroised(zeroised: Zeroised, signing_key: Address) -> None:
    """Check that the sandbox of this statement signed it. Raises ProtocolViolation("BadSignature")."""
    if recover(_zeroised_digest(zeroised.task, zeroised.pod_uid), zeroised.signature) != signing_key:
        raise ProtocolViolation("BadSignature", "zeroised by another key than the sandbox's", party=_AGENT)


def _zeroised_digest(task: TaskId, pod_uid: PodUid) -> bytes:
    return tagged_digest(ZEROISED_TAG, {"taskId": to_hex(task), "podUid": pod_uid})


def _digests(fields: Fields) -> tuple[bytes, ...]:
    items = fields.items("statements", maximum=MAX_SERVERS)
    return tuple(Fields({"digest": item}, what="statements", party="operator").data("digest", 32) for item in items)


def _mailbox(fields: Fields) -> MailboxEntry:
    host, port = parse_endpoint(fields.text("endpoint"))
    entry = MailboxEntry(node=NodeId(fields.integer("nodeId", minimum=1)), onion_key=fields.data("onionKey", 32), host=host, port=port)
    fields.done()
    return entry


def _store(value: Any) -> NodeKey:
    fields = Fields(value, what="configuration.stores", party="operator")
    store = NodeKey(node=NodeId(fields.integer("nodeId", minimum=1)), owner=fields.address("owner"), onion_key=fields.data("onionKey", 32))
    fields.done()
    return store


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ProtocolViolation("BadMessage", "a relay entry is an object", party="operator")
    return value
