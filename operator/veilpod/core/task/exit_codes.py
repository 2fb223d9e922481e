"""Exit codes of a sandbox's containers that its operator reads in the pod's status."""

CANARY_REACHABLE = 20  # the agent's, for a fence that does not hold
