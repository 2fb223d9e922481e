"""A relay's identity keys, made where their owner's `kubectl` is: from memory into a Secret, never printed and on no disk."""

import json

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from veilpod.client.kubectl import Kubectl
from veilpod.core.onion import relay_identity
from veilpod.errors import InvalidInput, Refused


async def make_identities(name: str, kubectl: Kubectl) -> None:
    """Make a Secret with a key for every replica that an OnionRelay can have, never over an old one.

    It is immutable: a key that changed would be another relay at the next restart. Raises InvalidInput("SecretExists"), Refused and what
    kubectl does.
    """
    keys = {relay_identity.entry(ordinal): relay_identity.spell(Ed25519PrivateKey.generate()) for ordinal in range(relay_identity.REPLICAS)}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "type": "Opaque", "immutable": True, "stringData": keys}
    outcome = await kubectl.run("create", "--filename", "-", "--output", "name", text=json.dumps(secret))
    if "(AlreadyExists)" in outcome.stderr:
        raise InvalidInput("SecretExists", f"the Secret {name} exists and is left as it is: choose another name")
    if outcome.code:
        # kubectl may quote what it could not read, and that has keys in it.
        hint = "`kubectl auth can-i create secrets` says whether the cluster answers and lets you"
        raise Refused("NotMade", f"the Secret was not made: {hint}; is {name!r} a name in small letters?")
