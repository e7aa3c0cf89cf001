"""Uploads a folder or a file to a repository on the Hub."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from vlcompare.errors import HubError
from vlcompare.runtime.loading.hub import errors

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def is_repository(name: str) -> bool:
    """Whether a name has the form of a Hub id, `owner/name`, of at most 96 characters (the Hub's limit)."""
    return len(name) <= 96 and _REPOSITORY.fullmatch(name) is not None


def push(folder: Path, repository: str, *, progress: Callable[[str, int, int], None] | None = None) -> str:
    """Upload a folder as a model repository, which is created if needed. Returns its address."""
    import huggingface_hub

    if not is_repository(repository):
        raise HubError(f"{repository!r} is not a Hub id of the form owner/name.")
    if progress:
        progress(f"Uploading {folder.name} to {repository}", 0, 0)
    try:
        api = huggingface_hub.HfApi(endpoint=errors.endpoint())
        url = api.create_repo(repository, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=str(folder), commit_message="Upload a quantized checkpoint")
    except errors.library_errors() as error:
        why = errors.message_for(error, repository, "main", sent=True)
        raise HubError(f"{why} {folder} is kept; `hf upload {repository} {folder} .` sends it, too.") from error
    return str(url)


def commit_file(repository: str, path: str, content: bytes, message: str) -> None:
    """Add one file to a private dataset repository, which is created if needed."""
    import huggingface_hub

    if not is_repository(repository):
        raise HubError(f"{repository!r} is not a Hub id of the form owner/name.")
    try:
        api = huggingface_hub.HfApi(endpoint=errors.endpoint())
        api.create_repo(repository, repo_type="dataset", private=True, exist_ok=True)
        api.upload_file(
            path_or_fileobj=content, path_in_repo=path, repo_id=repository, repo_type="dataset", commit_message=message
        )
    except errors.library_errors() as error:
        raise HubError(errors.message_for(error, repository, "main", sent=True)) from error
