"""The keys a sandbox is born with, the task key that it makes with the others, and what it says with them (paper step 4).

They exist in this process's memory and nowhere else; the task key in those of the task's other sandboxes, too.

`forget` drops every reference; Python cannot promise that no copy stays in freed memory, which is why cores and tracing are forbidden,
the pod is never swapped, and the process ends soon after.
"""

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from veilpod.core.agent_messages import Configuration, Zeroised, make_zeroised
from veilpod.core.ids import Address
from veilpod.core.keys import SigningKey
from veilpod.core.sealing import HybridPrivateKey
from veilpod.core.statement import Statement, sign_statement
from veilpod.errors import Refused


class Identity:
    """One sandbox's keys. Made by `create` after netguard passed."""

    def __init__(self, *, signing: SigningKey, encryption: HybridPrivateKey, onion: X25519PrivateKey) -> None:
        self._keys: tuple[SigningKey, HybridPrivateKey, X25519PrivateKey] | None = (signing, encryption, onion)
        self._group: SigningKey | None = None
        self.address: Address = signing.address
        self.statement: Statement
        self.signature: bytes

    @property
    def signing(self) -> SigningKey:
        """secp256k1: what the chain can check. Raises Refused("Zeroised") once forgotten."""
        return self._alive()[0]

    @property
    def encryption(self) -> HybridPrivateKey:
        """What data are sealed to."""
        return self._alive()[1]

    @property
    def onion(self) -> X25519PrivateKey:
        """What descriptors are sealed to."""
        return self._alive()[2]

    @property
    def group(self) -> SigningKey:
        """The task key, which every sandbox of the task holds. Raises Refused("TooEarly" | "Zeroised")."""
        self._alive()
        if self._group is None:
            raise Refused("TooEarly", "the sandboxes have not made the task key yet")
        return self._group

    def join(self, group: SigningKey) -> None:
        """Hold the task key that came out of the ceremony."""
        self._alive()
        self._group = group

    def zeroise(self, configuration: Configuration) -> Zeroised:
        """Sign the promise with the last use of the key, and forget all keys."""
        promise = make_zeroised(configuration.task, configuration.pod_uid, self.signing)
        self._keys = self._group = None
        return promise

    def _alive(self) -> tuple[SigningKey, HybridPrivateKey, X25519PrivateKey]:
        if self._keys is None:
            raise Refused("Zeroised", "this sandbox has wiped its keys")
        return self._keys


def create(
    configuration: Configuration, *, secret: bytes, tls_key: bytes, tier: str, confined: bool, allowed: int, blocked: int
) -> Identity:
    """Make all keys and the one statement of this pod. `secret`: 32 random bytes for the signing key; `tier`, `confined`: as observed."""
    identity = Identity(signing=SigningKey(secret=secret), encryption=HybridPrivateKey.generate(), onion=X25519PrivateKey.generate())
    identity.statement = Statement(
        task=configuration.task,
        index=configuration.index,
        incarnation=configuration.incarnation,
        pod_uid=configuration.pod_uid,
        agent_image=configuration.agent_image,
        program_image=configuration.program_image,
        encryption_key=identity.encryption.public_bytes,
        onion_key=identity.onion.public_key().public_bytes_raw(),
        signing_key=identity.address,
        tls_key=tls_key,
        policy_hash=configuration.policy_hash,
        tier=tier,
        host_access_denied=configuration.host_access_denied,
        program_confined=confined,
        allowed=allowed,
        blocked=blocked,
        nonce=configuration.nonce,
    )
    identity.signature = sign_statement(identity.statement, identity.signing)
    return identity
