"""What an MCP client is told of the tools and of its mistakes, in place of gradio's words for clients in general.

gradio's schema asks for an address to fetch, which no picture here may be, and does not take the path that an upload
returned; and where an argument is of a wrong type its answer does not say which. Knows gradio's MCP server.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any
from urllib.parse import quote

import gradio as gr
import jsonschema

FILE = "a data URI (data:image/png;base64,...), or the path that POST /gradio_api/upload returned"
KINDS = {"string": "a text", "number": "a number", "integer": "a whole number", "boolean": "true or false"}
KINDS |= {"array": "a list", "object": "an object"}


def speak_mcp(page: gr.Blocks) -> None:
    """Have the MCP server of a page that is served describe its files and name the arguments that it refuses."""
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
        return convert({name: address(one) if name in names else one for name, one in arguments.items()}, places)

    server.simplify_filedata_schema = simplified  # type: ignore[method-assign]
    server.convert_strings_to_filedata = converted  # type: ignore[method-assign]
    types = server.types
    call = server.mcp_server.request_handlers[types.CallToolRequest]

    async def named(request: Any) -> Any:
        tool = request.params.name
        if endpoint := server.tool_to_endpoint.get(tool):
            function: Any = server.get_block_fn_from_endpoint_name(endpoint)
            schema, _ = server.get_input_schema(tool, server.get_fn_description(function, tool)[1])
            request.params.arguments, said = read(request.params.arguments or {}, schema)
            if said:
                told = types.CallToolResult(content=[types.TextContent(type="text", text=said)], isError=True)
                return types.ServerResult(told)
        return await call(request)

    server.mcp_server.request_handlers[types.CallToolRequest] = named


def address(value: Any) -> Any:
    """An upload's path as this server's address of it, which is how gradio's own client leaves it alone; data URIs and
    addresses stay as they are."""
    if not isinstance(value, str) or value.startswith(("data:", "http://", "https://")):
        return value
    return f"http://localhost/gradio_api/file={quote(value)}"


def read(arguments: dict[str, Any], schema: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """(the arguments without those left empty, numbers in texts read; a sentence that names the first one that is of a
    wrong kind, missing or not known, or "")."""
    known = schema.get("properties", {})
    found = {name: value for name, value in arguments.items() if value is not None}
    for name in schema.get("required", ()):
        if name not in found:
            return found, f"The argument {name} is missing: {known[name].get('description', '')}"
    for name, value in found.items():
        if name not in known:
            return found, f"There is no argument {str(name)[:40]!r}; the arguments are {', '.join(known)}."
        kind = known[name].get("type")
        if kind == "number" and isinstance(value, str):
            with suppress(ValueError):
                found[name] = float(value)
        if next(jsonschema.Draft202012Validator(known[name]).iter_errors(found[name]), None) is None:
            continue
        if "enum" in known[name]:
            return found, f"The argument {name} is one of {', '.join(map(str, known[name]['enum']))}."
        said = known[name].get("description", "").strip()
        return found, f"The argument {name} takes {KINDS.get(kind, 'another kind of value')}" + (
            f": {said}" if said else "."
        )
    return found, ""
