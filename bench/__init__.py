"""Benchmarks. Each prints a table and writes build/bench/NAME.json; `make bench-NAME` runs one."""
