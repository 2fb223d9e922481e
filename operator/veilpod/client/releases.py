"""A party's release in a namespace, as seen from outside: which pods and which chain it uses."""

import dataclasses
from typing import Any

import yaml

from veilpod.chain import Addresses
from veilpod.client.kubectl import Kubectl
from veilpod.core.ids import Address
from veilpod.errors import InvalidInput

UPLOAD_PORT = 9102
_NAME = "app.kubernetes.io/name"
_COMPONENT = "app.kubernetes.io/component"
_INSTANCE = "app.kubernetes.io/instance"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ChainChoice:
    """Which chain, and how to reach it."""

    rpc_url: str
    chain_id: int
    addresses: Addresses
    confirmations: int


async def store_pod(kubectl: Kubectl, component: str, *, release: str | None) -> str:
    """The pod of the one `store` or `mailbox` in the namespace. Raises InvalidInput when there is none, or more than one."""
    labels = {_NAME: "veilpod", _COMPONENT: component} | ({_INSTANCE: release} if release else {})
    pods = [pod["metadata"]["name"] for pod in await kubectl.list_all("pods", labels=labels)]
    role = "storage" if component == "store" else "requester"
    return f"pod/{_one(pods, f'{component} (a release with the role {role})', release)}"


async def tower_pod(kubectl: Kubectl, *, release: str | None) -> str:
    """The pod of the one watchtower in the namespace. Raises InvalidInput when there is none, or more than one."""
    labels = {_NAME: "veilpod", _COMPONENT: "watchtower"} | ({_INSTANCE: release} if release else {})
    pods = [pod["metadata"]["name"] for pod in await kubectl.list_all("pods", labels=labels)]
    return f"pod/{_one(pods, 'watchtower (a release with the role watchtower)', release)}"


async def chain_choice(kubectl: Kubectl, *, release: str | None) -> ChainChoice:
    """The chain that the release in the namespace uses, from its operator's configuration."""
    labels = {_NAME: "veilpod", _COMPONENT: "operator"} | ({_INSTANCE: release} if release else {})
    found = [item for item in await kubectl.list_all("configmaps", labels=labels) if "config.yaml" in item.get("data", {})]
    name = _one([item["metadata"]["name"] for item in found], "operator's configuration", release)
    text = next(item["data"]["config.yaml"] for item in found if item["metadata"]["name"] == name)
    try:
        return _choice(yaml.safe_load(text)["chain"])
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise InvalidInput("BadRelease", f"the configuration {name} names no chain: give --rpc, --chain-id and --contracts") from error


def _choice(chain: dict[str, Any]) -> ChainChoice:
    contracts = chain["contracts"]
    return ChainChoice(
        rpc_url=str(chain["rpcUrl"]),
        chain_id=int(chain["chainId"]),
        addresses=Addresses(
            registry=Address(contracts["registry"]), scheduler=Address(contracts["scheduler"]), channels=Address(contracts["channels"])
        ),
        confirmations=int(chain.get("confirmations", 1)),
    )


def _one(names: list[str], what: str, release: str | None) -> str:
    if len(names) == 1:
        return names[0]
    if not names:
        raise InvalidInput("NoRelease", f"no {what} in this namespace: is -n right, and is the release installed?")
    hint = "" if release else "; name the release with --release"
    raise InvalidInput("AmbiguousRelease", f"more than one {what} in this namespace ({', '.join(sorted(names))}){hint}")
