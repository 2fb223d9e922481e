import contextlib

import pytest
from tests.support.anvil import CHAIN_ID, account, anvil

from veilpod.chain import connect

__all__ = ["anvil", "open_chain"]


@pytest.fixture
async def open_chain(anvil, tmp_path):
    """Open connections by account; closed at the end. `state` names the state directory, `depth` and the rest go to `connect`."""
    async with contextlib.AsyncExitStack() as stack:

        async def open_one(index=None, *, state=None, url=None, depth=0, **options):
            key = None if index is None else account(index)
            directory = tmp_path / (state or f"state-{index}")
            chain = await connect(
                url or anvil.url, chain_id=CHAIN_ID, addresses=options.pop("addresses", anvil.addresses), state_dir=directory,
                key=key, depth=depth, poll_seconds=0.05, **options,
            )  # fmt: skip
            return await stack.enter_async_context(chain)

        yield open_one
