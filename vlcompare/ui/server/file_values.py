"""File values in requests: a handler gets the path as the client sent it, and gradio never opens the file.

gradio preprocesses every value before it calls a handler: it copies a value in the form of a file into its cache, or
downloads it if the path is a URL; a value that lacks a key of that form is not checked, and the component opens it. So
file values are removed before gradio's preprocessing. A component that takes files gets the path, to be opened by
`uploads`; for every other component a file is refused. Overriding the components' methods would not do, since gradio
rebuilds a session's components whenever a handler leaves one unchanged.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote, urlsplit

import gradio as gr

from vlcompare.ui.server.call_errors import refuse
from vlcompare.ui.server.uploads import REFUSED

FILE_COMPONENTS = (gr.Image, gr.UploadButton)  # their value is an uploaded file
OWN_ADDRESS = "/gradio_api/file="  # of an uploaded file, in a URL of this server
NO_OBJECT = "A field holds an object where a text, a number, or a list of these belongs."
TOO_MUCH = "A field holds too many values, or lists that are nested too deeply."
MAX_NESTED = 8
MAX_VALUES = 10_000


def use_paths(page: gr.Blocks) -> None:
    """Have all events of the page, however they are called, get their files as paths. Refused files raise gr.Error."""
    original = page.preprocess_data

    async def preprocess_data(block_fn: Any, inputs: list[Any], state: Any, explicit_call: bool = False) -> list[Any]:
        rest, paths = take_paths(block_fn.inputs, inputs)
        values = await original(block_fn, rest, state, explicit_call)
        for index, path in paths.items():
            values[index] = path
        return values

    page.preprocess_data = preprocess_data  # type: ignore[method-assign]


def take_paths(components: list[Any], values: list[Any]) -> tuple[list[Any], dict[int, str | None]]:
    """(the values with None for each file, index -> the file's path). Raises gr.Error for a file where none belongs."""
    rest, paths = [], {}
    for index, value in enumerate(values):
        component = components[index] if index < len(components) else None
        if isinstance(component, FILE_COMPONENTS):
            paths[index] = path_of(value)
            value = None
        else:
            check_plain(value, objects=isinstance(component, gr.JSON))
        rest.append(value)
    return rest, paths


def path_of(value: Any) -> str | None:
    """The path that a file's value names; None where there is no file. Raises gr.Error for any other value.

    The URL of an upload to this server, as MCP clients send it, is replaced by the path in it.
    """
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if value is None or value == []:
        return None
    path = value.get("path") if isinstance(value, dict) else None
    if not isinstance(path, str) or not path:
        refuse(REFUSED)
    if not path.lower().startswith(("http://", "https://")):
        return path
    try:
        return unquote(urlsplit(path).path).partition(OWN_ADDRESS)[2] or path
    except ValueError:  # no URL
        return path


def check_plain(value: Any, *, objects: bool = False) -> None:
    """Raise gr.Error where the value holds a file, is nested too deeply, or holds an object where none may be."""
    count, level = 0, [value]
    for _ in range(MAX_NESTED):
        below: list[Any] = []
        for one in level:
            if isinstance(one, dict):
                if "path" in one or not objects:
                    refuse(REFUSED if "path" in one else NO_OBJECT)
                below.extend(one.values())
            elif isinstance(one, (list, tuple)):
                below.extend(one)
        count += len(below)
        if not below:
            return
        if count > MAX_VALUES:
            break
        level = below
    refuse(TOO_MUCH)
