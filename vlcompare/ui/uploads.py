"""Only uploaded files: no address is fetched for a visitor, and no file of the server is read.

gradio downloads any http address that a client sends in place of a file (guarded against private networks, but a fetch
all the same). Components that pass through `only_uploads` refuse that; addresses of this server's own uploads, which
MCP clients send, are taken as the files that they are, and must lie in the upload folder. Nor does gradio look into a
picture: whatever was uploaded goes to the project's own door, which says in a sentence what it refuses.
"""

from __future__ import annotations

from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

import gradio as gr
from gradio.utils import get_upload_folder, is_in_or_equal

Component = TypeVar("Component", bound=gr.components.Component)
MARK = "/gradio_api/file="


def only_uploads(component: Component) -> Component:
    """Make a file-taking component refuse addresses; returns it."""
    original = component.async_move_resource_to_block_cache

    async def moved(url_or_file_path: Any) -> str | None:
        return await original(local_path(url_or_file_path) if url_or_file_path is not None else None)

    component.async_move_resource_to_block_cache = moved  # type: ignore[method-assign]
    if isinstance(component, gr.Image):
        component.preprocess = lambda payload: payload.path if payload is not None else None  # type: ignore[method-assign]
    return component


def local_path(given: Any) -> str:
    """The path of an uploaded file, from a path or this server's own address of it; gr.Error for any other address."""
    value = str(given)
    if not value.lower().startswith(("http://", "https://")):
        return value
    path = unquote(urlsplit(value).path)
    if MARK in path:
        path = path.split(MARK, 1)[1]
        if is_in_or_equal(path, get_upload_folder()):
            return path
    raise gr.Error("Pictures are uploaded, not fetched from an address: send the file itself.")
