"""Errors of the Hub, the network and the cache as sentences that say what to do; which of them are worth a retry.

The classes are huggingface_hub's and those of its HTTP client, which depends on huggingface_hub's version.
"""

from __future__ import annotations

import errno
import importlib
import os
import time
from collections.abc import Callable
from typing import Any, TypeVar

from vlcompare.runtime.loading.hub.record import COMMIT

TRIES = 4  # of a request that makes no progress
SILENT = 0.5  # seconds between two calls of a caller that waits: what it tells changes, and it may raise
_TRANSIENT = (408, 429, 500, 502, 503, 504)  # statuses for which a retry may succeed
_LONGEST_DELAY = 60  # seconds; a server that asks for more is not waited for
T = TypeVar("T")


def endpoint() -> str | None:
    """The address of the Hub or of a mirror, None for the default."""
    return os.environ.get("HF_ENDPOINT") or None


def library_errors() -> tuple[type[BaseException], ...]:
    """What huggingface_hub raises for faults of the Hub and the network, and the system for faults of the disk."""
    from huggingface_hub import errors

    # its own HTTP error derives from the client's base error and from OSError
    return (
        *errors.HfHubHTTPError.__bases__, _client().InvalidURL, errors.HFValidationError,
        errors.LocalTokenNotFoundError, OSError,
    )  # fmt: skip


def connection_error() -> type[BaseException]:
    """The HTTP client's error for a connection that drops, times out or cannot be opened."""
    return _client().TransportError


def retry_delay(error: BaseException, attempt: int) -> float | None:
    """Seconds to wait before a retry, after `attempt` failures in a row without progress; None: a retry is useless."""
    response = getattr(error, "response", None)
    if response is None:
        permanent = isinstance(error, _client().UnsupportedProtocol) or _is_untrusted(error)
        return None if permanent else min(2.0**attempt / 2, 8.0)
    if response.status_code not in _TRANSIENT:
        return None
    asked = _retry_after(response)
    if asked is not None:
        return float(asked) if asked <= _LONGEST_DELAY else None
    return min(2.0**attempt / 2, 8.0)


def with_retries(request: Callable[[], T], waiting: Callable[[], None]) -> T:
    """What `request` returns; it is called again where the server answers that it is busy.

    waiting: called before each request and repeatedly between two of them; it may raise to give up.
    """
    from huggingface_hub.errors import HfHubHTTPError

    for attempt in range(1, TRIES):
        waiting()
        try:
            return request()
        except HfHubHTTPError as error:
            seconds = retry_delay(error, attempt)
            if seconds is None:
                raise
            pause(seconds, waiting)
    waiting()
    return request()


def pause(seconds: float, waiting: Callable[[], None]) -> None:
    """Wait, and call `waiting` every SILENT seconds; it may raise to end the wait."""
    while seconds > 0:
        waiting()
        time.sleep(min(seconds, SILENT))
        seconds -= SILENT


def not_the_hub(repository: str) -> str:
    """The sentence for an answer that does not come from the Hub."""
    return (
        f"{_address()} does not answer as the Hub does when {repository} is requested: a network's sign-in page or "
        "a proxy may be in between; open a web page in a browser and sign in there, or check HF_ENDPOINT."
    )


def message_for(error: BaseException, repository: str, revision: str, *, sent: bool = False) -> str:
    """One sentence for the user about an error of `library_errors`. sent: something was to be sent, not fetched."""
    from huggingface_hub import errors

    page = f"https://huggingface.co/{repository}"
    if isinstance(error, errors.OfflineModeIsEnabled):
        if sent:
            return f"Nothing is sent to {repository} in offline mode: unset HF_HUB_OFFLINE and TRANSFORMERS_OFFLINE."
        return (
            f"{repository} is not complete in the cache, and the Hub cannot be reached in offline mode: unset "
            "HF_HUB_OFFLINE and TRANSFORMERS_OFFLINE to download it, or give a local folder."
        )
    if isinstance(error, errors.GatedRepoError):
        return (
            f"{repository} is gated: accept its conditions at {page} while signed in, then run `hf auth login` or set "
            "HF_TOKEN."
        )
    if isinstance(error, errors.RevisionNotFoundError):
        again = f"; `checkpoints download {repository} --update` looks up a recorded one again"
        again = again if COMMIT.fullmatch(revision) else ""
        return f"{repository} has no revision {revision!r}: its revisions are listed at {page}/commits/main{again}."
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            f"The repository {repository} was not found on the Hub; check the name, or sign in with `hf auth login` if "
            "it is private."
        )
    if isinstance(error, errors.HFValidationError):
        return f"{repository!r} is not a valid Hub id of the form owner/name."
    if isinstance(error, OSError) and error.errno is not None:
        return _about_the_disk(error, repository)
    response = getattr(error, "response", None)
    if response is not None:
        return _about_a_status(response, repository)
    if _is_untrusted(error):
        return (
            f"The connection to {_address()} cannot be trusted (its certificate does not verify): sign in where the "
            "network asks for it, or name a proxy's certificate in SSL_CERT_FILE."
        )
    if isinstance(error, (_client().InvalidURL, _client().UnsupportedProtocol)):
        return f"HF_ENDPOINT is {_address()!r}, not a web address: give one that begins with https://, or unset it."
    if sent:
        return f"The Hub cannot be reached, so that nothing was sent to {repository}: go online and send it again."
    return (
        f"The Hub cannot be reached and {repository} is not complete in the cache: go online and try again (what was "
        "downloaded is kept), or give a local folder."
    )


def _about_the_disk(error: OSError, repository: str) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"The disk is full: what was downloaded of {repository} is kept; free some space, or set HF_HOME to "
            "another disk."
        )
    if error.errno == errno.EFBIG:
        return f"A file of {repository} is too large for the cache's file system; set HF_HOME to another disk."
    where = f": {error.filename}" if error.filename else ""
    return f"The Hub's cache cannot be used ({error.strerror}{where}); set HF_HOME to another folder."


def _about_a_status(response: Any, repository: str) -> str:
    status = response.status_code
    if status in (401, 403):
        return (
            f"The Hub refuses access to {repository} ({status}): sign in with `hf auth login` or set HF_TOKEN; where a "
            "token is set, it is not valid for this repository."
        )
    if status == 404:
        name = str(response.request.url).partition("?")[0].rpartition("/")[2]
        return f"{repository} or its file {name} is not on the Hub (404): check the name, and HF_ENDPOINT if it is set."
    if status == 429:
        asked = _retry_after(response)
        when = f"in {asked} seconds" if asked is not None else "in some minutes"
        return (
            f"The Hub received too many requests from this machine (429): try again {when}, what was downloaded is "
            "kept; signing in with `hf auth login` raises the limit."
        )
    if status >= 500:
        return (
            f"The Hub answered {repository} with an error of its own ({status}): try again later, what was downloaded "
            "is kept."
        )
    return f"The Hub answered {repository} with an error ({status}); try again later."


def _retry_after(response: Any) -> int | None:
    value = response.headers.get("Retry-After", "").strip()
    return int(value) if value.isascii() and value.isdigit() and len(value) < 10 else None


def _is_untrusted(error: BaseException) -> bool:
    return "CERTIFICATE_VERIFY_FAILED" in str(error)


def _address() -> str:
    return endpoint() or "The Hub"


def _client() -> Any:
    """The module of huggingface_hub's HTTP client."""
    from huggingface_hub import errors

    return importlib.import_module(errors.HfHubHTTPError.__bases__[0].__module__.partition(".")[0])
