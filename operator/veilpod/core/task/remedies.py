"""What to do about a reason: one sentence for each stable code that a person can act on. Codes without one explain themselves."""

from veilpod.core.task.facts import Failure

FAILURES = {
    "NetguardRefused": "a server's fence does not hold, or its sandboxes reach no relay to prove it by: its owner runs `veilpod doctor`",
    "PolicyMissing": "the cluster's admin upgrades Veilpod's cluster release, the server's owner its own: both put back what they install",
    "PolicyChanged": "somebody edited a policy around running sandboxes: look at the audit log, then upgrade the release that owns it",
    "ImpossibleCanary": "a SandboxClass or compute.canaries names an address that every sandbox, or none, reaches: correct it",
    "RuntimeClassMissing": "install the runtime with its RuntimeClass on that server's cluster, or name another SandboxClass",
    "ClassNotOffered": "that server's cluster has no SandboxClass of this name: create it there, or name another one in the task",
    "RuntimeMismatch": "a sandbox ran on another kernel than its SandboxClass promises: that server's admin mends its RuntimeClass",
    "InputRefused": "a store or its policy refused an input: look at the Dataset's policy, digest and events at its owner",
    "InputTimeout": "an input did not arrive: is its Dataset Ready, are there enough relays, is deadlines.inputs long enough?",
    "MeetingTimeout": "the sandboxes did not all report in time: more relays, or a longer deadlines.inputs",
    "CeremonyTimeout": "a sandbox fell silent while the task key was made: apply the task again; if it repeats, leave that server out",
    "CeremonyFault": "a sandbox lied while the task key was made: save the evidence (`veilpod evidence fetch`), then leave that server out",
    "StatementRefused": "a sandbox's statement did not match: apply the task again; if it repeats, leave that server out",
    "TooFewRelays": "fewer relays have a fresh heartbeat than a circuit has hops: wait for them or start more (`veilpod node list`)",
    "NoDiversePath": "circuits need relays of different owners: `veilpod node list`, or onion.relays: InCluster for tests",
    "RelaysUnreachable": "the listed relays do not answer, or stall: their owners look at them; do sandboxes' fences let relay ports pass?",
    "RelaysFull": "the listed relays take no more circuits or are being drained: start more, or try again later",
    "ClockSkew": "all heartbeats seem old to a server: its owner sets the node's clock, or sees whether the chain stands still",
    "ProgramFailed": "the program ended with an error: its log is sealed into the result (`veilpod result`) if there is one",
    "ProgramNotStarted": "the program did not begin: is program.command in the image, can servers pull it? Their TaskAssignments tell",
    "ProgramNotConfined": "programs with ports need Landlock (Linux 6.7), or class and data with programConfinement: WhenSupported",
    "ProgramTimeout": "the program needs more time: raise deadlines.compute",
    "ResultTooLarge": "the result exceeds result.maxSize: raise it, or write less to /veilpod/out",
    "DeliveryFailed": "the result could not be delivered: is the mailbox running and reachable by relays?",
    "PeerLost": "a server lost its peer: apply the task again, or allow for it with a quorum",
    "AgentRestarted": "a sandbox's agent crashed and its key died with it: apply the task again",
    "SandboxLost": "a sandbox ended early (node failure, eviction, or refused by its server: see its TaskAssignment): apply the task again",
    "Cancelled": "the task was cancelled; what was not earned is refunded",
    "DeadlineExceeded": "a phase outlived its deadline: the condition that is not True says which one",
}
REASONS = {
    "ImageUnavailable": "a node cannot get an image of the sandbox: is its digest right, may the cluster pull from its registry?",
    "ContainerRefused": "a node refuses a container of the sandbox: `kubectl describe pod` in the sandbox namespace says why",
    "Unschedulable": "no node has room for the sandbox: smaller program.resources, or more nodes",
    "NoCandidates": "not enough computing servers are Active with capacity and stake: `veilpod node list`",
    "InsufficientFunds": "the release's account needs more coin for the budget, the deposits and gas",
    "UnknownDataset": "no store lists a data set of this name: is its Dataset Ready?",
    "ChainUnavailable": "the chain does not answer the operator: is chain.rpcUrl right, is the node up?",
    "ApiNotServed": "the cluster does not serve ValidatingAdmissionPolicy (Kubernetes 1.30 does): its admin runs `veilpod doctor`",
    "AwaitingUpload": "upload the sealed object: `veilpod dataset put FILE -n NAMESPACE`",
}


def remedy(code: str) -> str:
    """What to do about a failure code or a condition's reason; empty when there is nothing to add."""
    return FAILURES.get(code) or REASONS.get(code) or ""


def failed_message(failure: Failure) -> str:
    """The message of the condition Failed."""
    return "; what to do: ".join(part for part in (f"failed at {failure.stage}", remedy(failure.code)) if part)
