"""Which known checkpoints are on this machine. Imports no torch, so that the list of checkpoints is there at once."""

from __future__ import annotations

from vlcompare.runtime.loading import hub, registry
from vlcompare.units import format_bytes


def state_of(checkpoint: registry.Checkpoint) -> str:
    """Whether a known checkpoint can be used as it is, in a few words."""
    if checkpoint.embedded:
        return "part of this project" if checkpoint.available else "missing"
    repository = checkpoint.repository or ""
    if snapshot := hub.cached(repository, revision=checkpoint.revision):
        return f"here, commit {snapshot.commit[:12]}"
    begun = hub.cached_bytes(repository)
    if begun:
        return f"begun, {format_bytes(begun)}"
    size = checkpoint.download_gb
    return f"to download, {format_bytes(1e9 * sum(size))}" if size else "to download"
