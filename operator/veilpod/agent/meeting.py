"""Meeting the other sandboxes before anything is published: offers, acceptances, and where each can be met (paper step 4).

The agent believes what is signed by the accounts that its configuration names, and nobody's word about the rest: every offer is verified
here, whatever the mailbox or the operator has checked before.
"""

import asyncio
from collections.abc import Sequence

from veilpod.agent.mailbox import MailboxClient
from veilpod.core.agent_messages import Configuration, OffersCollected, Published
from veilpod.core.canonical import to_hex
from veilpod.core.ids import Address, ServerIndex
from veilpod.core.meeting import (
    Acceptance,
    Descriptor,
    ForPeer,
    ForStore,
    Offer,
    SealedDescriptor,
    parse_offer,
    seal_descriptor,
    verify_offer,
)
from veilpod.core.statement import Statement
from veilpod.core.typed_data import statements_hash
from veilpod.errors import PeerUnavailable, ProtocolViolation, Refused
from veilpod.net.pauses import pauses
from veilpod.ports import Onion, RendezvousPoint

_POLL_SECONDS = (0.1, 0.2, 0.3, 0.5, 1.0)

Reader = ForStore | ForPeer


def readers_of(configuration: Configuration) -> list[Reader]:
    """Who must be able to meet this sandbox: stores with an input for it, and peers that its link leads to."""
    spec, index = configuration.spec, configuration.index
    stores = sorted({item.node for item in spec.inputs if item.to == index})
    peers = [second for first, second in spec.links if first == index]
    return [*(ForStore(node=node) for node in stores), *(ForPeer(index=peer) for peer in peers)]


def hosts_of(configuration: Configuration) -> list[ServerIndex]:
    """The peers that this sandbox goes to meet."""
    return [first for first, second in configuration.spec.links if second == configuration.index]


async def build_rendezvous(onion: Onion, readers: Sequence[Reader], *, seconds: float) -> dict[Reader, RendezvousPoint]:
    """One cookie for each reader. Raises CircuitFailed, or Refused("MeetingTimeout")."""
    try:
        async with asyncio.timeout(seconds), asyncio.TaskGroup() as group:
            tasks = {reader: group.create_task(onion.rendezvous()) for reader in readers}
    except TimeoutError as error:
        raise Refused("MeetingTimeout", "no rendezvous could be built in time") from error
    return {reader: task.result() for reader, task in tasks.items()}


async def collect_offers(client: MailboxClient, configuration: Configuration, own: Offer, *, seconds: float) -> list[Offer]:
    """Put our offer and wait for everybody's. Raises Refused("MeetingTimeout" | "StatementRefused" | …)."""
    try:
        async with asyncio.timeout(seconds):
            await client.ask("put-offer", own.document(), seconds=seconds)
            return await _poll_offers(client, configuration, seconds)
    except (TimeoutError, PeerUnavailable) as error:
        raise Refused("MeetingTimeout", "not all servers made their offers in time") from error


async def _poll_offers(client: MailboxClient, configuration: Configuration, seconds: float) -> list[Offer]:
    for pause in pauses(*_POLL_SECONDS):
        answer = await client.ask("get-offers", {"taskId": to_hex(configuration.task)}, seconds=seconds)
        documents = answer.get("offers")
        if not isinstance(documents, list) or len(documents) > len(configuration.servers):
            raise ProtocolViolation("StatementRefused", "the mailbox answers with something that is no list of offers", party="mailbox")
        if len(documents) == len(configuration.servers):
            return verified(configuration, [parse_offer(document, party="mailbox") for document in documents])
        await asyncio.sleep(pause)
    raise AssertionError  # the pauses have no end


def verified(configuration: Configuration, offers: Sequence[Offer]) -> list[Offer]:
    """The offers by index, each checked. Raises ProtocolViolation("StatementRefused")."""
    ordered = sorted(offers, key=lambda offer: offer.statement.index)
    for number, (offer, owner) in enumerate(zip(ordered, configuration.servers, strict=True)):
        verify_offer(offer, task=configuration.task, index=ServerIndex(number), owner=owner, party=f"server {number}")
    return ordered


def collected(offers: Sequence[Offer], key: Address) -> OffersCollected:
    """What the operator is asked to accept: the key that the sandboxes made together, for these statements."""
    digests = tuple(offer.statement.digest for offer in offers)
    signers = tuple(offer.statement.signing_key for offer in offers)
    return OffersCollected(key=key, statements=digests, statements_hash=statements_hash(digests), signers=signers)


def make_acceptance(
    configuration: Configuration, signature: bytes, points: dict[Reader, RendezvousPoint], statements: Sequence[Statement]
) -> Acceptance:
    """Our server's signature, and one sealed descriptor for each reader."""
    store_keys = {store.node: store.onion_key for store in configuration.stores}
    descriptors: list[SealedDescriptor] = []
    for reader, point in points.items():
        descriptor = Descriptor(
            relay=point.relay, cookie=point.cookie, service_key=point.service_key, expires=point.expires, sender=configuration.index
        )
        if isinstance(reader, ForPeer):
            key = statements[reader.index].onion_key
        elif reader.node in store_keys:
            key = store_keys[reader.node]
        else:
            raise ProtocolViolation("BadConfiguration", "the operator named no key for a store with an input", party="operator")
        descriptors.append(seal_descriptor(descriptor, task=configuration.task, to=reader, reader_key=key))
    return Acceptance(task=configuration.task, index=configuration.index, signature=signature, descriptors=tuple(descriptors))


def check_published(published: Published, expected: OffersCollected) -> None:
    """What is on chain must be what this sandbox met. Raises ProtocolViolation("StatementRefused")."""
    if published.key != expected.key or published.statements != expected.statements:
        raise ProtocolViolation("StatementRefused", "the published key is of other sandboxes than those met", party="requester")
