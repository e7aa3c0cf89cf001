"""The Hub, played by a server on this machine. Nothing here is a test."""

from __future__ import annotations

import hashlib
import json
import re
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

REPOSITORY = "somebody/tiny"
FIRST, SECOND = "a" * 40, "b" * 40


class FakeHub:
    """The Hub's few answers that are asked for: a model's listing, a file's identity, a file's bytes (also from the
    middle). Large files have a SHA-256, small ones the SHA-1 of a git blob, as there. What can go wrong is a field."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files, self.commit = files, FIRST
        self.repositories = [REPOSITORY]  # each holds these files
        self.status: tuple[int, str] | None = None  # refuse everything so: status, X-Error-Code
        self.file_status: list[tuple[int, dict[str, str]]] = []  # refuse so many requests for files so
        self.cut: int | None = None  # end every body after so many bytes, as a dropped line would
        self.held: threading.Event | None = None  # a cut line stays open, silent, until this is set
        self.page = False  # a network's sign-in page in the place of "listing" or "file"
        self.page_for_files = False
        self.sizes = self.sums = self.commits = self.ranges = True  # what the listing and the answers say
        self.grown = 0  # bytes that the listing says too many
        self.sent: dict[str, bytes] = {}  # what is sent in a file's place
        self.requests: list[tuple[str, str, str]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: object) -> None:
                pass

            def do_HEAD(self) -> None:
                outer.answer(self, body=False)

            def do_GET(self) -> None:
                outer.answer(self, body=True)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=[0.01], daemon=True)
        self.thread.start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def downloads(self) -> list[str]:
        return [path.rsplit("/", 1)[1] for method, path, _ in self.requests if method == "GET" and "/resolve/" in path]

    def asked_ranges(self, name: str) -> list[str]:
        return [asked for method, path, asked in self.requests if method == "GET" and path.endswith(name)]

    def answer(self, handler: Any, body: bool) -> None:
        self.requests.append((handler.command, handler.path, handler.headers.get("Range", "")))
        if self.status is not None:
            return self.send(handler, self.status[0], {"X-Error-Code": self.status[1]} if self.status[1] else {}, b"")
        listing = re.fullmatch(r"/api/models/([^/]+/[^/]+)/revision/([^?]+)(\?.*)?", handler.path)
        if self.page or self.page_for_files and not listing:
            return self.send(handler, 200, {"Content-Type": "text/html; charset=utf-8"}, b"<html>Sign in</html>", body)
        if listing:
            if listing[1] not in self.repositories:
                return self.send(handler, 404, {"X-Error-Code": "RepoNotFound"}, b"{}")
            if listing[2] not in ("main", self.commit):
                return self.send(handler, 404, {"X-Error-Code": "RevisionNotFound"}, b"{}")
            return self.send(handler, 200, {"Content-Type": "application/json"}, self.listing(listing[1]))
        if self.file_status:
            return self.send(handler, *self.file_status.pop(0), b"")
        resolve = re.fullmatch(r"/[^/]+/[^/]+/resolve/([^/]+)/(.+)", handler.path)
        if resolve and resolve[2] in self.files:
            return self.file(handler, resolve[2], body)
        return self.send(handler, 404, {"X-Error-Code": "EntryNotFound"}, b"")

    def listing(self, repository: str) -> bytes:
        siblings: list[dict[str, Any]] = []
        for name, data in self.files.items():
            entry: dict[str, Any] = {"rfilename": name}
            if self.sizes:
                entry["size"] = len(data) + self.grown
            if self.sums:
                entry["blobId"] = git_sum(data)
                if name.endswith(".safetensors"):
                    entry["lfs"] = {"sha256": sha256_sum(data), "size": len(data), "pointerSize": 1}
            siblings.append(entry)
        return json.dumps({"id": repository, "sha": self.commit, "siblings": siblings}).encode()

    def file(self, handler: Any, name: str, body: bool) -> None:
        data = self.files[name]
        head = {"ETag": f'"{checksum(name, data)}"', "Accept-Ranges": "bytes"}
        data = self.sent.get(name, data)
        if self.commits:
            head["X-Repo-Commit"] = self.commit
        begin = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", "")) if self.ranges else None
        if begin:
            first = int(begin[1])
            if first >= len(data):
                return self.send(handler, 416, {"Content-Range": f"bytes */{len(data)}"}, b"")
            head["Content-Range"] = f"bytes {first}-{len(data) - 1}/{len(data)}"
            data = data[first:]
        self.send(handler, 206 if begin else 200, head, data, body)

    def send(self, handler: Any, status: int, head: dict[str, str], data: bytes, body: bool = True) -> None:
        handler.send_response(status)
        for name, value in {**head, "Content-Length": str(len(data))}.items():
            handler.send_header(name, value)
        handler.end_headers()
        if body and "ETag" in head and self.cut is not None and len(data) > self.cut:
            handler.wfile.write(data[: self.cut])
            handler.wfile.flush()
            handler.close_connection = True
            if self.held is not None:
                self.held.wait(60)
            handler.connection.shutdown(socket.SHUT_RDWR)
        elif body:
            handler.wfile.write(data)


def sha256_sum(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def git_sum(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def checksum(name: str, data: bytes) -> str:
    return sha256_sum(data) if name.endswith(".safetensors") else git_sum(data)
