"""Process: the operator. kopf handlers that only enqueue, a keyed queue, roles that observe, decide and act."""
