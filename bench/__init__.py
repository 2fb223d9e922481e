"""Measurements that a bar is set for. `make bench-NAME` runs one; each prints a table and writes build/bench/NAME.json."""
