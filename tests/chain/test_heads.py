"""How often the chain's head is looked at."""

import asyncio
from typing import Any

import pytest

from veilpod.chain.heads import Heads


async def test_after_a_transaction_the_head_is_looked_at_soon_and_a_few_times_only() -> None:
    nobody: Any = None
    heads = Heads(nobody, depth=0, clock=asyncio.get_running_loop().time)
    waiting = asyncio.create_task(heads.pause(3600))
    await asyncio.sleep(0)
    heads.nudge()
    async with asyncio.timeout(10):
        await waiting
        for _ in range(3):
            await heads.pause(3600)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await heads.pause(3600)
