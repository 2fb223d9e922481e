"""Process: the store. Holds sealed data sets and is the requester's mailbox; no Kubernetes, no chain, no secret on disk."""
