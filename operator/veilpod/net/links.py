"""The links of one process, at most one per relay: dialled when first needed, closed when idle.

A relay dials with its identity and also uses the links that other relays dialled to it; a client dials anonymously. Paper step 5.
"""

import asyncio
import logging
import os

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from veilpod.core.onion.directory import RelayEntry
from veilpod.core.onion.link import Initiator
from veilpod.errors import CircuitFailed
from veilpod.net.budget import Budget
from veilpod.net.link import Link, LinkOwner

log = logging.getLogger(__name__)
_CLOSE_SECONDS = 5.0


class LinkPool:
    """Links by identity key. `owner` is told about each."""

    def __init__(self, owner: LinkOwner, *, identity: Ed25519PrivateKey | None, budget: Budget, dial_timeout: float = 10.0) -> None:
        self._owner, self._identity, self._budget, self._timeout = owner, identity, budget, dial_timeout
        self._links: dict[bytes, Link] = {}
        self._left: set[Link] = set()  # of relays that drain: for the circuits that are there
        self._dialling: dict[bytes, asyncio.Task[Link]] = {}

    @property
    def links(self) -> list[Link]:
        """Every link that is up."""
        return [*self._links.values(), *self._left]

    async def get(self, entry: RelayEntry) -> Link:
        """Find or dial the link to a relay. Raises CircuitFailed."""
        link = self._links.get(entry.identity_key)
        if link is not None and link.usable:
            return link
        task = self._dialling.get(entry.identity_key)
        if task is None:
            # The dial belongs to the pool: one caller's cancellation must not take the link from the others.
            task = asyncio.get_running_loop().create_task(self._dial(entry))
            self._dialling[entry.identity_key] = task
            task.add_done_callback(lambda done: self._dialled(entry.identity_key, done))
        return await asyncio.shield(task)

    def adopt(self, link: Link) -> None:
        """Use a link that another relay dialled."""
        if link.peer is not None:
            known = self._links.get(link.peer)
            if known is None or not known.usable:
                self._links[link.peer] = link

    def forget(self, link: Link) -> None:
        """A link is gone."""
        self._left.discard(link)
        if link.peer is not None and self._links.get(link.peer) is link:
            del self._links[link.peer]

    async def close(self) -> None:
        """Close every link and stop dialling."""
        for task in list(self._dialling.values()):
            task.cancel()
        await asyncio.gather(*self._dialling.values(), return_exceptions=True)
        links = self.links
        for link in links:
            link.close()
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                await asyncio.gather(*(asyncio.shield(link.closed) for link in links))
        except TimeoutError:
            for link in links:
                link.abort()

    async def _dial(self, entry: RelayEntry) -> Link:
        shake = Initiator(
            ephemeral=X25519PrivateKey.generate(), expected=entry.identity_key, identity=self._identity, filler=os.urandom(96)
        )
        link: Link | None = None
        try:
            async with asyncio.timeout(self._timeout):
                loop = asyncio.get_running_loop()
                _, link = await loop.create_connection(lambda: Link(self._owner, shake, budget=self._budget), entry.host, entry.port)
                await asyncio.shield(link.opened)
        except (OSError, TimeoutError) as error:
            if link is not None:
                link.abort()
            raise CircuitFailed("a relay did not answer, or was not the one that the directory lists") from error
        except asyncio.CancelledError:
            if link is not None:
                link.abort()
            raise
        before = self._links.get(entry.identity_key)
        if before is not None and before.alive:
            self._left.add(before)
        self._links[entry.identity_key] = link
        return link

    def _dialled(self, identity_key: bytes, task: asyncio.Task[Link]) -> None:
        self._dialling.pop(identity_key, None)
        if not task.cancelled():
            task.exception()  # every waiter may have gone
