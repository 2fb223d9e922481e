"""Exit codes of a sandbox's containers that its operator reads in the pod's status."""

CANARY_REACHABLE = 20  # the agent's, for a fence that does not hold
PEER_UNREACHABLE = 21  # the agent's, for one that could not be proved: no relay answered
PROBE_FAILED = 23  # the same: a canary could not be looked at
