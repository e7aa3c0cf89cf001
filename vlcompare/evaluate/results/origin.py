"""Whether a run was made by this user's own command line on this machine, so that it may keep pointing to its pictures.

A run's samples may name pictures by absolute path, below its `images_root`. That is followed for a run of one's own
only: `evaluate` writes a proof into run.json, a keyed hash over that folder and the samples, and the key lies in the
user's data folder where nobody else can read it. A run from elsewhere, or one whose samples or folder were changed
since, has no valid proof, and nothing outside of it is followed; `inspect --images DIR` allows a folder by hand.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlcompare.paths import data_folder

KEY = "run-key"
_BYTES = 32


def proof(images_root: str | None, samples_sha256: str) -> str | None:
    """The proof for run.json; None where there is nothing to prove, or no key can be kept."""
    key = _key(make=True) if images_root else None
    return _hash(key, images_root or "", samples_sha256) if key else None


def own_root(record: Mapping[str, Any], samples: Path) -> Path | None:
    """The picture folder of a run that this user made and that is as it was then; else None."""
    root, given = record.get("images_root"), record.get("images_proof")
    key = _key() if root and given else None
    if not key:
        return None
    with samples.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Path(root) if hmac.compare_digest(_hash(key, root, digest).encode(), given.encode()) else None  # type: ignore


def _hash(key: bytes, root: str, samples_sha256: str) -> str:
    return hmac.new(key, f"{samples_sha256}\n{root}".encode(), "sha256").hexdigest()


def _key(*, make: bool = False) -> bytes | None:
    """The user's key, made at first use; None if it cannot be read or written."""
    path = data_folder() / KEY
    try:
        if make and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "wb") as file:
                file.write(secrets.token_bytes(_BYTES))
        key = path.read_bytes()
    except FileExistsError:  # another process was quicker
        return _key()
    except OSError:
        return None
    return key if len(key) == _BYTES else None
