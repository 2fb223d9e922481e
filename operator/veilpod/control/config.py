"""The operator's configuration file, parsed once into values. Nothing here is secret: `keyFile` names where the chain key lies.

A typo is an error with a sentence, never a default: every mapping is read to its last key.
"""

import dataclasses
import pathlib
from typing import Any

import yaml

from veilpod.core.canary import possible_canary
from veilpod.core.ids import Address
from veilpod.core.keys import parse_address
from veilpod.errors import InvalidInput, ProtocolViolation

ROLES = ("requester", "compute", "storage", "relay")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ChainConfig:
    """Which chain, and which contracts on it."""

    rpc_url: str
    chain_id: int
    registry: Address
    scheduler: Address
    channels: Address
    cross_check_url: str = ""  # a second RPC endpoint that must say the same where money is decided
    confirmations: int = 1  # blocks on top before something read from the chain is acted on


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class WatchtowerConfig:
    """A watchtower that guards this release's channels: where it is, and the account that signs its receipts."""

    url: str
    address: Address


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ComputeConfig:
    """What this release offers as a computing server."""

    capacity: int = 4  # sandboxes at a time
    stake: int = 0  # wei kept deposited in TaskScheduler
    relay_port: int = 9001  # the one port a sandbox may dial, on relays
    canaries: tuple[str, ...] = ()  # as `core.canary` spells them: netguard must find them blocked; the SandboxClass may add more
    watchtowers: tuple[WatchtowerConfig, ...] = ()
    assets: tuple[Address, ...] = ()  # ERC-20 tokens that it is paid in, beside the chain's coin


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """One release's operator."""

    release: str
    namespace: str
    sandbox_namespace: str
    roles: tuple[str, ...]
    chain: ChainConfig
    images: dict[str, str]  # agent, relay, store, netguard...: by digest
    compute: ComputeConfig = ComputeConfig()
    store_service: str = ""  # name of the Service of the store pod (role storage)
    mailbox_service: str = ""  # name of the Service of the mailbox pod (role requester)
    state_dir: pathlib.Path
    key_file: pathlib.Path
    log_level: str = "INFO"
    http_port: int = 8080  # probes and metrics
    relay: dict[str, Any] = dataclasses.field(default_factory=dict)  # read by the relay role


def load(path: pathlib.Path) -> Config:
    """Read the configuration file. Raises InvalidInput("InvalidConfig") with what to correct."""
    try:
        document = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise InvalidInput("InvalidConfig", f"cannot read the configuration: {error}") from error
    return parse(document)


def parse(document: Any) -> Config:
    """Parse a configuration document. Raises InvalidInput("InvalidConfig") with what to correct."""
    top = _Section(document, "the configuration")
    chain, compute = top.section("chain"), top.section("compute", required=False)
    contracts = chain.section("contracts")
    config = Config(
        release=top.text("release", "veilpod"),
        namespace=top.text("namespace"),
        sandbox_namespace=top.text("sandboxNamespace", ""),
        roles=tuple(top.strings("roles")),
        chain=ChainConfig(
            rpc_url=chain.text("rpcUrl"),
            chain_id=chain.number("chainId"),
            registry=Address(contracts.text("registry")),
            scheduler=Address(contracts.text("scheduler")),
            channels=Address(contracts.text("channels")),
            cross_check_url=chain.text("crossCheckUrl", ""),
            confirmations=chain.number("confirmations", 1),
        ),
        images={str(name): str(image) for name, image in top.mapping("images").items()},
        compute=ComputeConfig(
            capacity=compute.number("capacity", 4),
            stake=compute.number("stake", 0),
            relay_port=compute.number("relayPort", 9001),
            canaries=tuple(possible_canary(text).spell() for text in compute.strings("canaries", ())),
            watchtowers=tuple(_watchtower(item) for item in compute.items("watchtowers")),
            assets=tuple(_account(item, "compute.assets") for item in compute.strings("assets", ())),
        ),
        store_service=top.nested_text("storage", "storeService"),
        mailbox_service=top.nested_text("requester", "mailboxService"),
        state_dir=pathlib.Path(top.text("stateDir")),
        key_file=pathlib.Path(top.text("keyFile")),
        log_level=top.text("logLevel", "INFO").upper(),
        http_port=top.number("httpPort", 8080),
        relay=top.mapping("relay"),
    )
    for section in (contracts, chain, compute, top):
        section.done()
    _check(config)
    return config


def _watchtower(value: Any) -> WatchtowerConfig:
    section = _Section(value, "compute.watchtowers")
    url, address = section.text("url"), section.text("address")
    section.done()
    if not url.startswith(("http://", "https://")):
        raise InvalidInput("InvalidConfig", f"compute.watchtowers: {url!r} must begin with http:// or https://")
    return WatchtowerConfig(url=url, address=_account(address, "compute.watchtowers"))


def _account(text: str, where: str) -> Address:
    try:
        return parse_address(text)
    except ProtocolViolation as error:
        raise InvalidInput("InvalidConfig", f"{where}: {error}") from error


def _check(config: Config) -> None:
    if unknown := sorted(set(config.roles) - set(ROLES)):
        raise InvalidInput("InvalidConfig", f"unknown role {unknown[0]!r}: roles are {', '.join(ROLES)}")
    if len({tower.address for tower in config.compute.watchtowers}) != len(config.compute.watchtowers):
        raise InvalidInput("InvalidConfig", "compute.watchtowers names one address twice: two towers have two keys")
    if config.chain.cross_check_url and config.chain.cross_check_url == config.chain.rpc_url:
        raise InvalidInput("InvalidConfig", "chain.crossCheckUrl is chain.rpcUrl: a second opinion must come from somebody else")
    if not config.roles:
        raise InvalidInput("InvalidConfig", "roles is empty: name at least one of " + ", ".join(ROLES))
    needs = {
        "compute": (config.sandbox_namespace and config.images.get("agent"), "sandboxNamespace and images.agent"),
        "storage": (config.store_service, "storage.storeService"),
        "requester": (config.mailbox_service, "requester.mailboxService"),
    }
    for role, (present, what) in needs.items():
        if role in config.roles and not present:
            raise InvalidInput("InvalidConfig", f"the role {role} needs {what}")


class _Section:
    """A mapping that is read to its last key."""

    def __init__(self, value: Any, name: str) -> None:
        if not isinstance(value, dict):
            raise InvalidInput("InvalidConfig", f"{name} must be a mapping")
        self._left = dict(value)
        self._name = name

    def take(self, key: str, default: Any = None) -> Any:
        value = self._left.pop(key, None)
        return default if value is None else value

    def section(self, key: str, *, required: bool = True) -> "_Section":
        return _Section(self.take(key, None if required else {}), f"{self._name}.{key}")

    def text(self, key: str, default: str | None = None) -> str:
        value = self.take(key, default)
        if not isinstance(value, str):
            raise InvalidInput("InvalidConfig", f"{self._name}: {key} must be a string")
        return value

    def number(self, key: str, default: int | None = None) -> int:
        value = self.take(key, default)
        # Wei does not fit into a float, so large numbers come as decimal strings.
        if isinstance(value, str) and value.isdecimal():
            return int(value)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise InvalidInput("InvalidConfig", f"{self._name}: {key} must be a whole number")
        return value

    def strings(self, key: str, default: tuple[str, ...] | None = None) -> list[str]:
        value = self.take(key, default)
        if not isinstance(value, (list, tuple)) or not all(isinstance(item, str) for item in value):
            raise InvalidInput("InvalidConfig", f"{self._name}: {key} must be a list of strings")
        return list(value)

    def items(self, key: str) -> list[Any]:
        value = self.take(key, [])
        if not isinstance(value, list):
            raise InvalidInput("InvalidConfig", f"{self._name}: {key} must be a list")
        return value

    def mapping(self, key: str) -> dict[str, Any]:
        value = self.take(key, {})
        if not isinstance(value, dict):
            raise InvalidInput("InvalidConfig", f"{self._name}: {key} must be a mapping")
        return value

    def nested_text(self, key: str, inner: str) -> str:
        section = self.section(key, required=False)
        value = section.text(inner, "")
        section.done()
        return value

    def done(self) -> None:
        if self._left:
            raise InvalidInput("InvalidConfig", f"{self._name}: unknown key {sorted(map(str, self._left))[0]!r}")
