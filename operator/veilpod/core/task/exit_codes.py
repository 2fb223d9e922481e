"""Exit codes of a sandbox's containers that its operator reads in the pod's status."""

CANARY_REACHABLE = 20  # netguard's, for a fence that does not hold
