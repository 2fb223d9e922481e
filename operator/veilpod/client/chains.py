"""The chain from a person's machine: by flags, by a deployment file, or as the release in a namespace is configured.

An RPC endpoint inside the cluster (`http://NAME.NAMESPACE.svc:PORT`) is reached by port-forward, so that what works for an operator
works for its owner. Reading needs no state; a sender's transactions are kept under the user's state directory until they are settled.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import tempfile
import urllib.parse
from collections.abc import AsyncIterator

from veilpod.chain import Addresses, Chain, connect
from veilpod.client.kubectl import Kubectl
from veilpod.client.releases import ChainChoice, chain_choice
from veilpod.core.keys import SigningKey
from veilpod.errors import InvalidInput


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ChainOptions:
    """What the command line says about the chain. None: not said."""

    rpc_url: str | None = None
    chain_id: int | None = None
    contracts: pathlib.Path | None = None
    confirmations: int | None = None
    release: str | None = None


async def choose(options: ChainOptions, kubectl: Kubectl) -> ChainChoice:
    """Decide which chain. What the flags leave open comes from the release in the namespace."""
    if options.contracts is None:
        choice = await chain_choice(kubectl, release=options.release)
    else:
        addresses, chain_id = _deployment(options.contracts)
        if options.rpc_url is None or (options.chain_id or chain_id) is None:
            raise InvalidInput("NoChain", "with --contracts also give --rpc, and --chain-id if the file does not say it")
        choice = ChainChoice(rpc_url=options.rpc_url, chain_id=options.chain_id or chain_id or 0, addresses=addresses, confirmations=1)
    return dataclasses.replace(
        choice,
        rpc_url=options.rpc_url or choice.rpc_url,
        chain_id=options.chain_id or choice.chain_id,
        confirmations=choice.confirmations if options.confirmations is None else options.confirmations,
    )


@contextlib.asynccontextmanager
async def opened(options: ChainOptions, kubectl: Kubectl, *, key: SigningKey | None = None) -> AsyncIterator[tuple[ChainChoice, Chain]]:
    """Connect to the chosen chain, to read or, with a key, to send."""
    choice = await choose(options, kubectl)
    async with contextlib.AsyncExitStack() as stack:
        url = await stack.enter_async_context(_reachable(choice.rpc_url, kubectl))
        state = _state_directory(choice, key) if key else pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="veilpod-")))
        chain = await connect(
            url, chain_id=choice.chain_id, addresses=choice.addresses, state_dir=state, key=key, depth=choice.confirmations
        )
        yield choice, await stack.enter_async_context(chain)


@contextlib.asynccontextmanager
async def _reachable(url: str, kubectl: Kubectl) -> AsyncIterator[str]:
    parts = urllib.parse.urlsplit(url)
    labels = (parts.hostname or "").split(".")
    if len(labels) < 3 or labels[2] != "svc":
        yield url
        return
    inside = Kubectl(namespace=labels[1], context=kubectl.context)
    async with inside.forward(f"service/{labels[0]}", parts.port or 80) as port:
        yield urllib.parse.urlunsplit(parts._replace(netloc=f"127.0.0.1:{port}"))


def _deployment(path: pathlib.Path) -> tuple[Addresses, int | None]:
    try:
        document = json.loads(path.read_text())
        chain_id = document.get("chainId")
        return Addresses.from_json(document), int(chain_id) if chain_id is not None else None
    except (OSError, ValueError, AttributeError) as error:
        raise InvalidInput("InvalidDeployment", f"cannot read {path}: it is the JSON that `veilpod chain deploy` prints") from error


def _state_directory(choice: ChainChoice, key: SigningKey) -> pathlib.Path:
    base = pathlib.Path(os.environ.get("XDG_STATE_HOME") or pathlib.Path.home() / ".local" / "state")
    # A deployment is part of the name: state describes money on exactly one.
    directory = base / "veilpod" / f"{choice.chain_id}-{choice.addresses.scheduler[2:10].lower()}-{key.address[2:].lower()}"
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    return directory
