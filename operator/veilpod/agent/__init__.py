"""The agent: the process inside a sandbox pod that holds its keys, its conversations and, for a while, its plaintext."""
