"""What the Hub lists of a repository: its files with sizes and checksums, and which of them are the weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from vlcompare.errors import HubError
from vlcompare.runtime.loading.hub import errors, record, transfer
from vlcompare.runtime.loading.hub.transfer import HubFile
from vlcompare.runtime.loading.weight_files import INDEX, ONE_FILE, SHARD, names_in_index


def listing(repository: str, revision: str, waiting: Callable[[], None]) -> tuple[str, dict[str, HubFile]]:
    """A revision's commit and its files by name. Raises HubError for an answer that is not a listing.

    waiting: as in `errors.with_retries`.
    """
    import huggingface_hub
    from huggingface_hub import constants

    api = huggingface_hub.HfApi(endpoint=errors.endpoint())
    timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
    try:
        info = errors.with_retries(
            lambda: api.model_info(repository, revision=revision, files_metadata=True, timeout=timeout), waiting
        )
        commit, listed = str(info.sha), {file.name: file for file in map(_hub_file, info.siblings or [])}
    except errors.library_errors():
        raise
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise HubError(errors.not_the_hub(repository)) from error
    if not record.COMMIT.fullmatch(commit):
        raise HubError(errors.not_the_hub(repository))
    return commit, listed


def choose(repository: str, listed: dict[str, HubFile], folder: Path) -> list[HubFile]:
    """The weights among a repository's files: one file, or shards with or without an index."""
    if ONE_FILE in listed:
        names = [ONE_FILE]
    elif INDEX in listed:
        names = names_in_index(folder / INDEX)
    else:
        names = sorted(name for name in listed if SHARD.match(name))
    missing = [name for name in names if name not in listed]
    if missing:
        raise HubError(f"{repository} lists the shard {missing[0]} in its index, but does not have it.")
    if not names:
        pickles = [name for name in listed if name.endswith((".bin", ".pt", ".pth", ".ckpt"))]
        reason = (
            f"holds {pickles[0]} and no safetensors: such files can run code when they are opened; ask its owner for a "
            "model.safetensors, or convert it yourself"
            if pickles
            else "holds no safetensors, which this program needs"
        )
        raise HubError(f"{repository} {reason}.")
    return [listed[name] for name in names]


def _hub_file(sibling: Any) -> HubFile:
    lfs = sibling.lfs
    sha256 = lfs.get("sha256") if isinstance(lfs, dict) else getattr(lfs, "sha256", None)
    checksum = str(sha256 or (sibling.blob_id if lfs is None else None) or "")
    size = None if sibling.size is None else int(sibling.size)
    return HubFile(str(sibling.rfilename), size, checksum if transfer.CHECKSUM.fullmatch(checksum) else None)
