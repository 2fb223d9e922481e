"""EIP-712 digests of what TaskScheduler checks: which key a server accepts for a task, and which result a task had.

The domain is that of contracts/src/lib/Domain.sol: name "Veilpod", version "1", the chain and the contract.
"""

import dataclasses

from veilpod.core.canonical import keccak256
from veilpod.core.fields import address_bytes
from veilpod.core.ids import Address, TaskId

_DOMAIN_TYPE = keccak256(b"EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)")
_SANDBOX_KEY_TYPE = keccak256(b"SandboxKey(bytes32 taskId,address key,bytes32 statementsHash)")
_RESULT_TYPE = keccak256(b"Result(bytes32 taskId,bytes32 resultHash)")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerDomain:
    """Which TaskScheduler on which chain: a signature for one is worth nothing to another."""

    chain_id: int
    contract: Address

    @property
    def separator(self) -> bytes:
        """The EIP-712 domain separator. 32 bytes."""
        words = [_DOMAIN_TYPE, keccak256(b"Veilpod"), keccak256(b"1"), self.chain_id.to_bytes(32, "big"), _word(self.contract)]
        return keccak256(b"".join(words))


def sandbox_key_digest(domain: SchedulerDomain, *, task: TaskId, key: Address, statements_hash: bytes) -> bytes:
    """What each computing server signs for `publishKey`. 32 bytes."""
    return _digest(domain, _SANDBOX_KEY_TYPE + task + _word(key) + statements_hash)


def result_digest(domain: SchedulerDomain, *, task: TaskId, result_hash: bytes) -> bytes:
    """What the task key signs for `complete`. 32 bytes."""
    return _digest(domain, _RESULT_TYPE + task + result_hash)


def _digest(domain: SchedulerDomain, encoded: bytes) -> bytes:
    return keccak256(b"\x19\x01" + domain.separator + keccak256(encoded))


def _word(address: Address) -> bytes:
    return address_bytes(address).rjust(32, b"\0")
