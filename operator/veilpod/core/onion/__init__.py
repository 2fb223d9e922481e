"""The onion network's rules: cells, layers, handshakes, paths. Pure; docs/protocol/onion.md says the same in prose."""
