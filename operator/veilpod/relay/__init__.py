"""Process: an onion router. Holds its own keys in memory, never a Kubernetes token, a chain key or anybody's plaintext.

Its identity key may come from a file, read once (ADR 16).
"""
