"""Session hashes that other clients may guess, made each client's own.

gradio identifies a session by a text that the client chooses; any client that sends the same text reads and changes
the session. A browser's page and gradio's Python client choose it at random. Two programs may both send "" or "x": a
short text is extended by a digest of the client's address, so that they get different sessions.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlencode

from starlette.types import Scope

from vlcompare.ui.server.allowed_hosts import API

FIELD = "session_hash"
SHORTEST_RANDOM = 10  # characters; those that gradio's page draws have 10 or 11
_IN_PATH = re.compile(rf"({API}/(?:heartbeat|stream)/)([^/]*)(.*)", re.DOTALL)
_KEY = secrets.token_bytes(16)  # nobody computes the digest of another's address


def own_name(session: str, client: str) -> str:
    """The hash under which the client's session is kept: as sent, or longer where it is short enough to guess."""
    if len(session) >= SHORTEST_RANDOM:
        return session
    return f"{session}-{hashlib.blake2b(client.encode(), key=_KEY, digest_size=16).hexdigest()}"


def own_body(value: Any, client: str) -> bool:
    """Rename the session in a call's JSON, in place; returns whether it changed."""
    if not isinstance(value, dict) or not isinstance(session := value.get(FIELD), str):
        return False
    value[FIELD] = own_name(session, client)
    return value[FIELD] != session


def own_scope(scope: Scope, client: str) -> Scope:
    """The request with the session in its query and its path renamed."""
    query = scope.get("query_string", b"")
    if FIELD.encode() in query or b"%" in query:
        pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True)
        if any(name == FIELD for name, _ in pairs):
            pairs = [(name, own_name(value, client) if name == FIELD else value) for name, value in pairs]
            scope = {**scope, "query_string": urlencode(pairs).encode()}
    root, path = scope["root_path"], scope["path"]
    if found := _IN_PATH.fullmatch(path.removeprefix(root)):
        begin, session, rest = found.groups()
        path = root + begin + own_name(unquote(session), client) + rest
        scope = {**scope, "path": path, "raw_path": quote(path).encode()}
    return scope
