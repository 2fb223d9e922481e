"""Who takes part: ten strangers. Each has a namespace, a key and a helm release of its own; they share the chain and the onion network."""

import dataclasses
import os
import pathlib
import subprocess

ROOT = pathlib.Path(__file__).resolve().parent.parent
# One stage at a time has this name: the local cluster's, and the folder's that everything is left in.
STAGE = os.environ.get("VEILPOD_STAGE", "demo")
WORK = ROOT / "build" / STAGE
KEYS = WORK / "keys"
ADMIN_NAMESPACE, CHAIN_NAMESPACE = "veilpod-system", "chain"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Party:
    """A participant: its name is its namespace and its release."""

    name: str
    role: str  # requester | compute | storage | relay
    dataset: str = ""

    @property
    def key_file(self) -> pathlib.Path:
        """Where its chain key lies on this machine. The demo plays everybody; real parties keep their own."""
        return KEYS / f"{self.name}.key"

    @property
    def address(self) -> str:
        """Its account on chain."""
        from veilpod.core.keys import signing_key  # `make down` works without the packages

        return str(signing_key(self.key_file.read_text()).address)


REQUESTER = Party(name="institute", role="requester")
SERVERS = tuple(Party(name=f"server-{name}", role="compute") for name in ("a", "b", "c"))
HOSPITALS = (
    Party(name="hospital-north", role="storage", dataset="wdbc-north"),
    Party(name="hospital-south", role="storage", dataset="wdbc-south"),
)
RELAYS = tuple(Party(name=f"relay-{name}", role="relay") for name in ("one", "two", "three", "four"))
PARTIES = (REQUESTER, *SERVERS, *HOSPITALS, *RELAYS)

RESULT_KEY = KEYS / "result.key"


def ensure_keys(veilpod: str) -> None:
    """Make every party's chain key and the requester's result key, once, with the CLI a real party would use."""
    KEYS.mkdir(parents=True, exist_ok=True)
    KEYS.chmod(0o700)
    for kind, file in [*(("chain", party.key_file) for party in PARTIES), ("result", RESULT_KEY)]:
        if not file.exists():
            subprocess.run([veilpod, "keys", "new", kind, str(file)], check=True, capture_output=True)
