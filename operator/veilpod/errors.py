"""The one tree of errors. A leaf says whether waiting helps and what to do.

VeilpodError
├── Transient            waiting helps: the shell requeues the key with back-off
│   ├── ChainUnavailable     the RPC did not answer, or answered with something that cannot be believed
│   ├── InsufficientFunds    our account lacks coin: it goes on by itself when somebody sends it some
│   ├── ClusterUnavailable   the Kubernetes API did not answer, or the object changed under us
│   │   └── NotServed            it does not know the kind that was asked for (yet)
│   ├── CircuitFailed        a circuit could not be built or broke; `blamed` names the link when it is known
│   └── PeerUnavailable      an agent, store, mailbox or relay did not answer
└── Terminal             waiting does not help: `reason` becomes the condition's reason, the message its remedy
├── InvalidInput         a manifest, key, file or value that a person must correct
├── Refused              a control that cannot be honoured (netguard, policy, image digest, tier)
├── ProtocolViolation    a message that no honest party sends; `party` names who sent it
├── PeerFault            another server of the task broke a protocol of all servers, or fell silent in it; `peer` is its index
└── ChainRejected        a contract refused a transaction; the custom error's name is in the message
"""


class VeilpodError(Exception):
    """Root of every error that Veilpod raises on purpose."""


class Transient(VeilpodError):
    """Waiting helps. `retry_after` is in seconds, None leaves it to the back-off."""

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ChainUnavailable(Transient):
    """The chain's RPC did not answer. Never read as an empty answer."""


class InsufficientFunds(Transient):
    """Our account lacks coin for value and gas. Waiting helps, once a person has sent some: conditions and metrics say so."""


class ClusterUnavailable(Transient):
    """The Kubernetes API did not answer, or the object changed under us."""


class NotServed(ClusterUnavailable):
    """The Kubernetes API does not know the kind. Never read as "there is none"."""


class CircuitFailed(Transient):
    """A circuit could not be built, or broke. `blamed` is the pair of node ids of the failing link, when known."""

    def __init__(self, message: str, *, blamed: tuple[int, int] | None = None, retry_after: float | None = None) -> None:
        super().__init__(message, retry_after=retry_after)
        self.blamed = blamed


class PeerUnavailable(Transient):
    """An agent, store, mailbox or relay did not answer."""


class Terminal(VeilpodError):
    """Waiting does not help. `reason` is CamelCase and stable; the message says what to do instead."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class InvalidInput(Terminal):
    """A manifest, key, file or value that a person must correct."""


class Refused(Terminal):
    """A control that cannot be honoured. Fail closed."""


class ProtocolViolation(Terminal):
    """A message that no honest party sends."""

    def __init__(self, reason: str, message: str, *, party: str = "") -> None:
        super().__init__(reason, message)
        self.party = party


class PeerFault(Terminal):
    """A server of the task broke a protocol that needs all of them, or fell silent in it. `peer` is its index."""

    def __init__(self, reason: str, message: str, *, peer: int) -> None:
        super().__init__(reason, message)
        self.peer = peer


class ChainRejected(Terminal):
    """A contract refused a transaction (in simulation or in a block)."""
