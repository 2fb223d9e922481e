"""Adapter: the Kubernetes API as raw JSON, and manifests as pure builders."""
