"""Deploy the three contracts: for the demo chain, for tests, and for whoever starts a network of their own.

Three transactions of one key, in order, each waited for; it keeps no state, so a deployment that broke half-way is simply made
again at new addresses.
"""

import asyncio
from typing import Any

from veilpod.chain import abi, contracts, fees
from veilpod.chain.heads import header
from veilpod.chain.rpc import Rpc, RpcError
from veilpod.chain.signing import sign_transaction
from veilpod.core.ids import Address
from veilpod.core.keys import SigningKey
from veilpod.errors import ChainRejected, ChainUnavailable

_TIMEOUT = 120.0
_POLL = 0.1
_GWEI = 10**9


async def deploy(url: str, deployer_key: SigningKey, guardian: Address) -> contracts.Addresses:
    """Deploy NodeRegistry(guardian), TaskScheduler(registry) and ChannelManager. `to_json` of the answer is the deployment file."""
    rpc = Rpc(url)
    try:
        async with asyncio.timeout(_TIMEOUT):
            first = await header(rpc, "latest")
            registry, _ = await _create(rpc, deployer_key, "NodeRegistry", guardian)
            scheduler, _ = await _create(rpc, deployer_key, "TaskScheduler", registry)
            channels, _ = await _create(rpc, deployer_key, "ChannelManager")
            if first is None:
                raise ChainUnavailable("the node has no newest block")
            return contracts.Addresses(registry=registry, scheduler=scheduler, channels=channels, since=first.number, since_hash=first.hash)
    except TimeoutError as error:
        raise ChainUnavailable("the deployment was not mined in time") from error
    finally:
        await rpc.close()


async def _create(rpc: Rpc, key: SigningKey, name: str, *arguments: Any) -> tuple[Address, int]:
    target = contracts.contract(name)
    code = "0x" + (target.bytecode + abi.encode(target.constructor, arguments)).hex()
    latest = await header(rpc, "latest")
    if latest is None:
        raise ChainUnavailable("the node has no newest block")
    bid = fees.suggest(base_fee=latest.base_fee, tip=_GWEI)
    try:
        gas = int(await rpc.call("eth_estimateGas", {"from": key.address, "data": code}), 16)
        chain_id = await rpc.quantity("eth_chainId")
        nonce = await rpc.quantity("eth_getTransactionCount", key.address, "latest")
        _, raw = sign_transaction(key, chain_id=chain_id, nonce=nonce, to=None, value=0, data=code, gas=gas * 11 // 10, bid=bid)
        transaction = await rpc.call("eth_sendRawTransaction", raw)
    except RpcError as error:
        raise ChainRejected("CannotDeploy", f"the node refused to deploy {name}: {error}") from error
    receipt = None
    while receipt is None:
        await asyncio.sleep(_POLL)
        receipt = await rpc.ask("eth_getTransactionReceipt", transaction)
    if int(receipt["status"], 16) != 1:
        raise ChainRejected("CannotDeploy", f"the deployment of {name} was reverted")
    return contracts.address(receipt["contractAddress"]), int(receipt["blockNumber"], 16)
