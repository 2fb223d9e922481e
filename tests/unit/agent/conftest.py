import pathlib
from collections.abc import AsyncIterator, Callable, Sequence

import pytest
from tests.support import netguards, sandbox_net, stores
from tests.support.sandbox_net import World

from veilpod.core.onion.directory import RelayEntry
from veilpod.net.onion import OnionProxy


@pytest.fixture(scope="session")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return sandbox_net.compile_launcher(tmp_path_factory.mktemp("launcher") / "launch")


@pytest.fixture
async def world(tmp_path: pathlib.Path, launcher: pathlib.Path) -> AsyncIterator[World]:
    """Relays, a mailbox and two stores, real ones; sandboxes are added by `start`."""

    def proxy(*, directory: Callable[[], Sequence[RelayEntry]], hops: int, in_cluster: bool, constant_rate: int) -> OnionProxy:
        return OnionProxy(directory=directory, hops=hops, in_cluster=in_cluster, constant_rate=constant_rate)

    built = World(tmp_path, launcher)
    async with built.stack as stack:
        built.fence = stack.enter_context(netguards.fence())
        built.relays, directory = await stack.enter_async_context(sandbox_net.relays())
        for name in ("mailbox", "north", "south"):
            service = await stack.enter_async_context(stores.running(tmp_path / name, onion=proxy))
            operator = await stack.enter_async_context(stores.linked(service, directory))
            if name == "mailbox":
                built.mailbox = operator
                for relay in built.relays:
                    relay.policy.replace([f"127.0.0.1:{service.listener.port}"])
            else:
                built.stores.append(operator)
        yield built
