"""Machine code of numba's functions, kept on disk between starts; whatever is wrong with a file there is a miss.

Takes the place of numba's own cache, where a damaged index or a full disk is an exception in the middle of a call, and
where two processes that start at once may give one file's name to the code of two signatures. Here every signature has
a file of its own whose name is a hash of all that the code depends on (every source file of this folder, numba's and
LLVM's versions, Python's, the processor's name and features, the types), and its content carries a checksum. In a
checkout the folder is the one that numba chooses: $NUMBA_CACHE_DIR, __pycache__ beside the sources, or the user's
cache. An installed package writes nothing beside its sources, where uninstalling it would leave the files.
"""

# numba has no types for its caches
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import functools
import hashlib
import os
import pickle
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llvmlite
import numba
from numba.core.caching import CompileResultCacheImpl
from numba.core.serialize import dumps

from vlcompare import paths
from vlcompare.models.kernels import fallback
from vlcompare.whole_files import whole_file

_DIGEST = 32  # bytes of a SHA-256


@functools.cache
def _digest_of_sources() -> str:
    """A hash of this folder's modules, any of which may be compiled into a kernel, and of the compilers' versions."""
    whole = hashlib.sha256(f"{numba.__version__}|{llvmlite.__version__}|{sys.version}".encode())
    for file in sorted(Path(__file__).parent.glob("*.py*")):
        whole.update(file.name.encode() + hashlib.sha256(file.read_bytes()).digest())
    return whole.hexdigest()


def _folder() -> Path | None:
    """The user's cache, for an installed package; None where numba chooses. Raises OSError where it cannot be made."""
    if not paths.INSTALLED or os.environ.get("NUMBA_CACHE_DIR"):
        return None
    folder = paths.cache_folder() / "kernels"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


class DiskCache:
    """The cache of one numba dispatcher, with the methods of numba's own `FunctionCache`.

    Raises RuntimeError where there is no folder to write to, OSError where the sources cannot be read.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._parts: Any = CompileResultCacheImpl(function)
        self._digest = _digest_of_sources()
        self.cache_path = str(_folder() or self._parts.locator.get_cache_path())

    def enable(self) -> None:
        """Always enabled."""

    def disable(self) -> None:
        """Always enabled."""

    def flush(self) -> None:
        """Nothing to do: every function is written at once."""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """The compiled function for a signature; None where no file has it, or only a damaged one."""
        target_context.refresh()
        path = self._path(sig, target_context)
        try:
            stored = path.read_bytes()
        except OSError:
            return None
        try:
            payload = stored[_DIGEST:]
            if hashlib.sha256(payload).digest() == stored[:_DIGEST]:
                return self._parts.rebuild(target_context, pickle.loads(payload))
        except Exception:  # whatever pickle or LLVM raises
            pass
        sentence = f"A file in {self.cache_path} with compiled kernels was damaged; they were compiled anew."
        fallback.tell("damaged cache", "cpu", sentence)
        return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Write a compiled function; where the disk is full or read-only, the next start compiles it again."""
        if not self._parts.check_cachable(data):
            return
        payload = dumps(self._parts.reduce(data))
        path = self._path(sig, data.target_context)
        try:
            with whole_file(path, uuid.uuid4().hex[:16]) as partial:  # processes may compile the same at once
                partial.write_bytes(hashlib.sha256(payload).digest() + payload)
        except OSError as error:
            not_kept(f"{self.cache_path} cannot be written ({error.strerror or error})")

    def _path(self, sig: Any, target_context: Any) -> Path:
        key = "|".join(map(str, (self._digest, sig, *target_context.codegen().magic_tuple())))
        name = f"{self._parts.filename_base}.{hashlib.sha256(key.encode()).hexdigest()[:24]}.kernel"
        return Path(self.cache_path, name)


def not_kept(reason: str) -> None:
    """Keep a sentence for the user: why each start compiles again."""
    fallback.tell("no cache", "cpu", f"The compiled CPU kernels are not kept: {reason}. Each start compiles them anew.")
