"""What would happen if we sent this now, what gas it needs, what to bid, and what a node's refusal means. Sends nothing."""

import dataclasses

from veilpod.chain import contracts, fees
from veilpod.chain.heads import Header, Heads
from veilpod.chain.rpc import Rpc, RpcError
from veilpod.core.ids import Address
from veilpod.errors import ChainRejected, ChainUnavailable, InsufficientFunds

_GWEI = 10**9


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What to do: `intent` is its name across crashes, `purpose` the function's name for reports."""

    intent: str
    purpose: str
    to: Address
    data: str
    value: int = 0


class Simulator:
    """Questions about calls of one account."""

    def __init__(self, rpc: Rpc, heads: Heads, address: Address) -> None:
        self._rpc = rpc
        self._heads = heads
        self._address = address

    async def simulate(self, call: Call) -> None:
        """Ask the node what would happen now. Raises ChainRejected with the custom error's name, or InsufficientFunds."""
        await self._heads.refresh()  # what the caller has just seen elsewhere may be younger than our last look
        try:
            # By hash: on a chain that was emptied under us a call to no contract would succeed, and the coin would be gone.
            await self._rpc.call("eth_call", self._request(call), self._heads.latest.tag)
        except RpcError as error:
            raise self._refusal(call, error) from error

    async def gas(self, call: Call) -> int:
        """The gas limit to send a call with. Raises like `simulate`."""
        try:
            estimate = int(await self._rpc.call("eth_estimateGas", self._request(call), "latest"), 16)
        except RpcError as error:
            raise self._refusal(call, error) from error
        return estimate * 5 // 4 + 20_000  # what others do before us in the block may make ours dearer; unused gas costs nothing

    async def bid(self) -> fees.Fees:
        """The going price."""
        try:
            tip = int(await self._rpc.call("eth_maxPriorityFeePerGas"), 16)
        except RpcError:
            tip = _GWEI  # the method is no standard; the going price on most chains
        return fees.suggest(base_fee=self._heads.latest.base_fee, tip=tip)

    async def why(self, call: Call, block: Header) -> ChainRejected:
        """Replay a reverted call before its block, then after it: one of them is close enough to name the error."""
        for number in (block.number - 1, block.number):
            try:
                await self._rpc.call("eth_call", self._request(call), hex(number))
            except RpcError as error:
                name = contracts.error_name(error.data or b"")
                return ChainRejected(_reason(name), f"{call.purpose} was reverted in a block: {name or error.message}")
        return ChainRejected("Reverted", f"{call.purpose} was reverted in a block, and would not be any more")

    def no_coin(self, error: RpcError) -> InsufficientFunds | None:
        """The error for an account that cannot pay, if that is what the node says."""
        if "insufficient funds" not in error.message.lower():
            return None
        return InsufficientFunds(f"the account {self._address} has too little coin for gas and value: send it some", retry_after=10)

    def _refusal(self, call: Call, error: RpcError) -> Exception:
        name = contracts.error_name(error.data or b"")
        if name is not None:
            return ChainRejected(_reason(name), f"{call.purpose} would be reverted: {name}")
        if no_coin := self.no_coin(error):
            return no_coin
        if error.code == 3 or "revert" in error.message.lower():
            return ChainRejected("Reverted", f"{call.purpose} would be reverted: {error.message}")
        return ChainUnavailable(f"the node refused to simulate {call.purpose}: {error.message}")

    def _request(self, call: Call) -> dict[str, str]:
        return {"from": self._address, "to": call.to, "data": call.data, "value": hex(call.value)}


def _reason(name: str | None) -> str:
    return name.partition("(")[0] if name else "Reverted"
