"""Veilpod: compute jobs for people who do not trust each other. Start at ARCHITECTURE.md, then `core/task/decide.py`."""

__version__ = "0.1.0"
