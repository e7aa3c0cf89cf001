"""Whether the Hub can be reached, and whether a token is set; one small request, nothing is downloaded."""

from __future__ import annotations

from vlcompare.runtime.loading.hub import errors

_SECONDS = 5.0


def reachability(repository: str) -> tuple[str, str]:
    """("reachable", ""), ("offline", why) where that was asked for, or ("unreachable", what to do).

    repository: a public one, about which the Hub is asked.
    """
    import huggingface_hub
    from huggingface_hub.errors import OfflineModeIsEnabled

    try:
        huggingface_hub.HfApi(endpoint=errors.endpoint()).model_info(repository, timeout=_SECONDS)
    except OfflineModeIsEnabled:
        return "offline", "HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set"
    except errors.connection_error() as error:
        return "unreachable", f"no connection ({type(error).__name__}); what is in the cache can be used"
    except errors.library_errors() as error:
        return "unreachable", errors.message_for(error, repository, "main")
    except (ValueError, TypeError, KeyError, AttributeError):
        return "unreachable", errors.not_the_hub(repository)
    return "reachable", ""


def signed_in() -> bool:
    """Whether a token would be sent."""
    import huggingface_hub

    return huggingface_hub.get_token() is not None
