"""MCP tools: how their arguments are described, checked and converted, in place of gradio's general rules.

gradio's schema asks for a URL to fetch, which no picture here may be, and does not take the path that an upload
returned. For an argument of the wrong type its answer does not say which.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from contextlib import suppress
from pathlib import PurePath
from typing import Any
from urllib.parse import quote

import gradio as gr
import jsonschema

from vlcompare.ui.server.middleware import Rules
from vlcompare.ui.server.refusal import Refused

FILE = "a data URI (data:image/png;base64,...), or the path that POST /gradio_api/upload returned"
KINDS = {"string": "a text", "number": "a number", "integer": "a whole number", "boolean": "true or false"}
KINDS |= {"array": "a list", "object": "an object"}


def describe_tools(page: gr.Blocks, rules: Rules) -> None:
    """Have the MCP server of a served page describe its files and name the arguments that it refuses.

    rules: of the server; a file in a data URI counts as an upload.
    """
    server = page.mcp_server_obj
    if server is None:
        return
    simplify, convert = server.simplify_filedata_schema, server.convert_strings_to_filedata

    def simplified(schema: dict[str, Any]) -> tuple[dict[str, Any], list[list[str | int]]]:
        found, places = simplify(schema)
        for place in places:
            node: Any = found["properties"]
            for step in place:
                node = node[step]
            node.pop("title", None)
            node["format"] = FILE
        return found, places

    def converted(arguments: Any, places: list[list[str | int]]) -> Any:
        names = {place[0] for place in places if len(place) == 1}
        return convert({name: upload_url(one) if name in names else one for name, one in arguments.items()}, places)

    server.simplify_filedata_schema = simplified  # type: ignore[method-assign]
    server.convert_strings_to_filedata = converted  # type: ignore[method-assign, assignment]
    logging.getLogger("mcp").setLevel(logging.CRITICAL)  # its messages hold the requests that it refuses
    logging.getLogger().addFilter(_not_of_mcp)
    types = server.types
    call = server.mcp_server.request_handlers[types.CallToolRequest]

    def count_files(values: Iterable[Any]) -> None:
        """Count data URIs, which gradio writes into its upload folder; their bytes are counted as the body's."""
        scope = server.mcp_server.request_context.request.scope  # type: ignore[union-attr]
        if files := sum(isinstance(value, str) and value.startswith("data:") for value in values):
            rules.limiter.add(rules.client(scope), files, 0, upload=True)

    async def checked_call(request: Any) -> Any:
        tool = request.params.name
        if endpoint := server.tool_to_endpoint.get(tool):
            function: Any = server.get_block_fn_from_endpoint_name(endpoint)
            schema, places = server.get_input_schema(tool, server.get_fn_description(function, tool)[1])
            arguments, error = read_arguments(request.params.arguments or {}, schema)
            request.params.arguments = arguments
            try:
                count_files(arguments.get(str(place[0])) for place in places)
            except Refused as refused:
                error = error or refused.sentence
            if error:
                result = types.CallToolResult(content=[types.TextContent(type="text", text=error)], isError=True)
                return types.ServerResult(result)
        return await call(request)

    server.mcp_server.request_handlers[types.CallToolRequest] = checked_call


def _not_of_mcp(record: logging.LogRecord) -> bool:
    """Whether a message of the root logger, which the MCP library uses too, is another library's."""
    return "mcp" not in PurePath(record.pathname).parts


def upload_url(value: Any) -> Any:
    """An upload's path as its URL on this server, which gradio's client does not upload again; data URIs and URLs stay
    as they are."""
    if not isinstance(value, str) or value.startswith(("data:", "http://", "https://")):
        return value
    return f"http://localhost/gradio_api/file={quote(value)}"


def read_arguments(arguments: dict[str, Any], schema: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """(the arguments without those that are None, numbers in texts converted; "", or a sentence that names the first
    argument of a wrong type, missing or unknown)."""
    known = schema.get("properties", {})
    found = {name: value for name, value in arguments.items() if value is not None}
    for name in schema.get("required", ()):
        if name not in found:
            return found, f"The argument {name} is missing: {known[name].get('description', '')}"
    for name, value in found.items():
        if name not in known:
            return found, f"Unknown argument {str(name)[:40]!r}; the arguments are {', '.join(known)}."
        kind = known[name].get("type")
        if kind == "number" and isinstance(value, str):
            with suppress(ValueError):
                found[name] = float(value)
        if next(jsonschema.Draft202012Validator(known[name]).iter_errors(found[name]), None) is None:
            continue
        if "enum" in known[name]:
            return found, f"The argument {name} is one of {', '.join(map(str, known[name]['enum']))}."
        description = known[name].get("description", "").strip()
        expected = f"The argument {name} takes {KINDS.get(kind, 'another kind of value')}"
        return found, f"{expected}: {description}" if description else f"{expected}."
    return found, ""
