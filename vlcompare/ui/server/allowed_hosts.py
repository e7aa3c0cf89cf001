"""Which requests are answered: allowed hosts, allowed origins, and the path prefix of a reverse proxy.

`middleware` checks every request. Two attacks use the browser of a user of the page. DNS rebinding: an attacker's name
resolves to this machine, and its page talks to this server; the Host header shows the name. Cross-site requests: an
attacker's page posts to the server's own name; the Origin header shows it. Programs (curl, gradio_client, MCP clients)
send no Origin.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from vlcompare.errors import RequestError
from vlcompare.ui.server.refusal import Refused

API = "/gradio_api"
DEFAULT_PORTS = {"http": 80, "https": 443}
NAME = re.compile(r"[a-z0-9_]([a-z0-9_.-]{0,251}[a-z0-9_])?")
PREFIX = re.compile(r"(/(?!\.{1,2}(/|$))[\w.~@:+-]+)+", re.ASCII)
FETCHING = re.compile(rf"{API}/file[=/]\s*https?:", re.IGNORECASE)
# the routes of gradio's API that this page, gradio's clients and MCP use. The others (among them a proxy, links that
# write files, and ffmpeg run on what is sent) are not served, nor is one that a later release adds
USED = re.compile(
    r"(info|openapi\.json|app_id|user|token|login_check|theme\.css|startup-events|upload|upload_progress|file|heartbeat"
    r"|queue|cancel|reset|run|api|call|mcp)(/|$)|file="
)
UNUSED = re.compile(rf"/(login|logout|monitoring|openapi\.json)(/|$)|{API}/+(?!{USED.pattern})")


@dataclass(frozen=True, slots=True)
class HostPort:
    """A host, with its port where one is given."""

    name: str  # lower case; an IPv6 address without its brackets
    port: int | None = None

    @classmethod
    def read(cls, value: str) -> HostPort | None:
        """From "name", "name:port" or "[::1]:port"; None for anything else."""
        found = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^\[\]:/?#@\\\s]+)(?::(\d{1,5}))?", value.strip())
        if found is None:
            return None
        name = found[1].lower()
        if name.startswith("["):
            try:
                name = ipaddress.IPv6Address(name[1:-1]).compressed
            except ValueError:
                return None
        else:
            name = name.removesuffix(".")
            if not NAME.fullmatch(name):
                return None
        return cls(name, int(found[2]) if found[2] else None)

    @property
    def address(self) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
        """The host as an IP address; None for a name."""
        try:
            return ipaddress.ip_address(self.name)
        except ValueError:
            return None

    @property
    def loopback(self) -> bool:
        return self.name == "localhost" or bool(self.address and self.address.is_loopback)

    def __str__(self) -> str:
        name = f"[{self.name}]" if ":" in self.name else self.name
        return name if self.port is None else f"{name}:{self.port}"


@dataclass(frozen=True, slots=True)
class PublicAddress:
    """The address of an allowed request as the browser sees it."""

    host: HostPort
    scheme: str
    prefix: str  # of the path; "" without a proxy that serves the page below one
    cross_site: bool  # sent by the page of another site, which must not read the answer


def read_allowed(values: Iterable[str]) -> tuple[str, ...]:
    """Names for --allow-host: "name", "name:port", "*.name" or "*". Raises RequestError for anything else."""
    found = []
    for value in values:
        name = urlsplit(value).netloc if "://" in value else value.strip()
        bare = name.removeprefix("*.")
        if name != "*" and HostPort.read(bare) is None:
            raise RequestError(f"{value[:100]!r} is not a host name: write it as vl.example.org.")
        found.append(name.lower())
    return tuple(found)


def read_root_path(value: str) -> str:
    """The page's path behind a proxy, "/vl" or "https://example.org/vl". Raises RequestError for anything else."""
    url = urlsplit(value.strip().rstrip("/"))
    full = url.scheme in DEFAULT_PORTS and HostPort.read(url.netloc) is not None
    relative = not url.scheme and not url.netloc
    path = url.path if not relative or url.path.startswith("/") else f"/{url.path}"
    if not (full or relative) or url.query or url.fragment or (path not in ("", "/") and not PREFIX.fullmatch(path)):
        raise RequestError(f"{value[:100]!r} is not the path of a page: write it as /vl or https://example.org/vl.")
    return f"{url.scheme}://{url.netloc}{path}" if full else path.rstrip("/")


class AllowedHosts:
    """One server's allowed hosts and origins.

    host: the address that the server is bound to; share: returns the public address of a gradio share link, if any.

    Bound to a loopback address, the server answers to localhost and loopback addresses at any port (an ssh tunnel has
    its own). Bound elsewhere, it also answers to any IP address, which DNS rebinding cannot use, and to the machine's
    name. Hosts that the operator allows, the Space's hosts and the public address are always answered.
    """

    def __init__(
        self,
        host: str,
        allowed: Iterable[str] = (),
        root_path: str = "",
        environment: Mapping[str, str] | None = None,
        share: Callable[[], str | None] = lambda: None,
    ) -> None:
        env = os.environ if environment is None else environment
        public = urlsplit(root_path)
        named = [*allowed, *env.get("SPACE_HOST", "").split(","), public.netloc]
        self.named = read_allowed(name for name in named if name.strip())
        self.prefix = public.path
        self.public = (public.scheme, HostPort.read(public.netloc)) if public.netloc else None
        self._share = share
        bound = HostPort.read(f"[{host}]" if host.count(":") > 1 and not host.startswith("[") else host)
        self.local = bound is not None and bound.loopback
        self.own = {bound.name} if bound else set()
        if not self.local:
            machine = socket.gethostname().lower()
            self.own |= {machine, machine.split(".")[0], f"{machine.split('.')[0]}.local", socket.getfqdn().lower()}

    def answers_to(self, host: HostPort) -> bool:
        """Whether a request may name this host."""
        if host.loopback or host.name in self.own or self.allows(host):
            return True
        return not self.local and host.address is not None

    def allows(self, host: HostPort) -> bool:
        """Whether the operator allows this host, or it is the Space's or the share link's."""
        share = HostPort.read(urlsplit(self._share() or "").netloc)
        if share is not None and share.name == host.name:
            return True
        for pattern in self.named:
            if pattern == "*" or (pattern.startswith("*.") and host.name.endswith(pattern[1:])):
                return True
            allowed = HostPort.read(pattern)
            if allowed is not None and allowed.name == host.name and allowed.port in (None, host.port):
                return True
        return False

    def same_site(self, origin: str, host: HostPort, behind_proxy: bool = False) -> bool:
        """Whether a request to `host` with this Origin comes from the page itself, or from an allowed host.

        behind_proxy: the page has the port of a proxy on this machine, which may not forward it.
        """
        try:
            url = urlsplit(origin.strip().lower())
        except ValueError:
            return False
        sender = HostPort.read(url.netloc)
        if url.scheme not in DEFAULT_PORTS or sender is None:  # "null" of a sandboxed frame, too
            return False
        if self.allows(sender) or (behind_proxy and sender.loopback and host.loopback):
            return True
        port = sender.port or DEFAULT_PORTS[url.scheme]
        # some proxies leave the port out of Host
        return sender.name == host.name and host.port in (None, port)

    def check(self, method: str, path: str, headers: Iterable[tuple[bytes, bytes]], scheme: str) -> PublicAddress:
        """The request's public address, by its method, path, headers (lower-case names) and scheme. Raises Refused."""
        found: dict[str, list[str]] = {}
        for name, value in headers:
            found.setdefault(name.decode("latin-1"), []).append(value.decode("latin-1"))
        host = self._host(found, path)
        forwarded = _first(found, "x-forwarded-prefix").rstrip("/")
        prefix = self.prefix or (forwarded if len(forwarded) <= 200 and PREFIX.fullmatch(forwarded) else "")
        proto = _first(found, "x-forwarded-proto").lower()
        scheme = proto if proto in DEFAULT_PORTS else scheme
        route = path[len(prefix) :] if prefix and path.startswith(f"{prefix}/") else path
        if len(found.get("content-type", ())) > 1:  # which one counts depends on the reader
            raise Refused(400, "The request has more than one Content-Type.")
        if FETCHING.match(route) or UNUSED.match(route):
            raise Refused(404, "There is nothing here.")
        origins = found.get("origin", [])
        cross_site = not all(self.same_site(origin, host, bool(prefix)) for origin in origins)
        changing = method not in ("GET", "HEAD")
        if not origins and changing and _first(found, "sec-fetch-site") == "cross-site":
            cross_site = True
        if cross_site and (changing or route.startswith(f"{API}/")):
            raise Refused(403, CROSS_SITE)
        if origins and not cross_site and (host.loopback or host.address):
            url = urlsplit(origins[0].strip().lower())  # behind a proxy that does not forward the public address
            scheme, host = url.scheme, HostPort.read(url.netloc) or host
        if self.public and self.public[1]:
            scheme, host = self.public[0], self.public[1]
        return PublicAddress(host, scheme, prefix, cross_site)

    def _host(self, headers: Mapping[str, list[str]], path: str) -> HostPort:
        """The host that the request names, to a proxy in front where there is one. Raises Refused."""
        hosts = [HostPort.read(host) for host in headers.get("host", ())]
        if len(hosts) != 1 or hosts[0] is None or not path.startswith("/"):
            raise Refused(400, "The request names no host, or not one alone.")
        host = hosts[0]
        forwarded = _first(headers, "x-forwarded-host")
        for named in (host, HostPort.read(forwarded)) if forwarded else (host,):
            if named is None:
                raise Refused(400, "The header X-Forwarded-Host names no host.")
            if not self.answers_to(named):
                name = named.name[:100]
                raise Refused(
                    403,
                    f"This server does not answer to the name {name}: its operator can allow it with "
                    f"--allow-host {name} or the variable VLCOMPARE_ALLOW_HOST.",
                )
            host = named
        return host


CROSS_SITE = (
    "This server takes no requests from the pages of other sites: its operator can allow one with --allow-host NAME "
    "or the variable VLCOMPARE_ALLOW_HOST."
)


def _first(headers: Mapping[str, list[str]], name: str) -> str:
    """The first value of a header that proxies add to; "" without the header."""
    return headers.get(name, [""])[0].split(",")[0].strip()
