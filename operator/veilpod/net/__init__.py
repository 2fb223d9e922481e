"""Adapter: TCP links, circuits, streams, control connections."""
