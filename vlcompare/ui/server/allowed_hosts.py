"""Which requests are answered: the hosts that they may name, the origins that may send them, and a proxy's prefix.

Rules only, standard library only; `guard` applies them to every request. They answer two attacks through the browser of
somebody who has the page open. DNS rebinding: a foreign name is made to point at this machine, and its page then talks
to the server as to its own; it shows in the Host header. Cross-site requests: a foreign page posts to the server's true
name; it shows in the Origin header, which programs (curl, gradio_client, MCP clients) do not send.
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

API = "/gradio_api"
DEFAULT_PORTS = {"http": 80, "https": 443}
NAME = re.compile(r"[a-z0-9_]([a-z0-9_.-]{0,251}[a-z0-9_])?")
PREFIX = re.compile(r"(/(?!\.{1,2}(/|$))[\w.~@:+-]+)+", re.ASCII)
FETCHING = re.compile(rf"{API}/file[=/]\s*https?:", re.IGNORECASE)
# what gradio serves beside what this page uses: links that write files, its own Hub storage and proxy, its monitoring
UNUSED = re.compile(
    rf"/(login|logout|monitoring|openapi\.json)(/|$)"
    rf"|{API}/(deep_link|dev|run-history|runs|stream|component_server|custom_component)(/|$)|{API}/proxy="
)


@dataclass(frozen=True, slots=True)
class Place:
    """A host with the port that was written with it."""

    host: str  # folded; an IPv6 address without its brackets
    port: int | None = None

    @classmethod
    def read(cls, value: str) -> Place | None:
        """From "name", "name:port" or "[::1]:port"; None for anything else."""
        found = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^\[\]:/?#@\\\s]+)(?::(\d{1,5}))?", value.strip())
        if found is None:
            return None
        host = found[1].lower()
        if host.startswith("["):
            try:
                host = ipaddress.IPv6Address(host[1:-1]).compressed
            except ValueError:
                return None
        else:
            host = host.removesuffix(".")
            if not NAME.fullmatch(host):
                return None
        return cls(host, int(found[2]) if found[2] else None)

    @property
    def address(self) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
        """The host as an address; None for a name."""
        try:
            return ipaddress.ip_address(self.host)
        except ValueError:
            return None

    @property
    def loopback(self) -> bool:
        return self.host == "localhost" or bool(self.address and self.address.is_loopback)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port is None else f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request is not answered: an HTTP status and a sentence."""

    status: int
    sentence: str


@dataclass(frozen=True, slots=True)
class Seen:
    """A request that is answered, as the visitor's browser sees it."""

    place: Place
    scheme: str
    prefix: str  # of the path, "" without a proxy that serves the page below one
    foreign: bool  # sent by the page of another site, which must not read the answer


def read_allowed(values: Iterable[str]) -> tuple[str, ...]:
    """Names for --allow-host: "name", "name:port", "*.name" or "*". Raises RequestError for anything else."""
    found = []
    for value in values:
        name = urlsplit(value).netloc if "://" in value else value.strip()
        bare = name.removeprefix("*.")
        if name != "*" and Place.read(bare) is None:
            raise RequestError(f"{value[:100]!r} is no name of a host: write it as vl.example.org.")
        found.append(name.lower())
    return tuple(found)


def read_root_path(value: str) -> str:
    """The page's path behind a proxy, "/vl" or "https://example.org/vl". Raises RequestError for anything else."""
    url = urlsplit(value.strip().rstrip("/"))
    full = url.scheme in DEFAULT_PORTS and Place.read(url.netloc) is not None
    relative = not url.scheme and not url.netloc
    path = url.path if not relative or url.path.startswith("/") else f"/{url.path}"
    if not (full or relative) or url.query or url.fragment or (path not in ("", "/") and not PREFIX.fullmatch(path)):
        raise RequestError(f"{value[:100]!r} is no path of a page: write it as /vl or https://example.org/vl.")
    return f"{url.scheme}://{url.netloc}{path}" if full else path.rstrip("/")


class Access:
    """One server's rules. host: the address that it is bound to; share: gives the public address, once there is one.

    Bound to this machine alone, the server answers to localhost and loopback addresses, at any port: a tunnel (ssh -L)
    has its own. Elsewhere it answers to any address written in digits, which no foreign page can be served under, and
    to the machine's name. What the operator allows, the Space's hosts and the public address are answered everywhere.
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
        self.public = (public.scheme, Place.read(public.netloc)) if public.netloc else None
        self._share = share
        bound = Place.read(f"[{host}]" if host.count(":") > 1 and not host.startswith("[") else host)
        self.local = bound is not None and bound.loopback
        self.own = {bound.host} if bound else set()
        if not self.local:
            machine = socket.gethostname().lower()
            self.own |= {machine, machine.split(".")[0], f"{machine.split('.')[0]}.local", socket.getfqdn().lower()}

    def answers_to(self, place: Place) -> bool:
        """Whether a request may name this host."""
        if place.loopback or place.host in self.own or self.allows(place):
            return True
        return not self.local and place.address is not None

    def allows(self, place: Place) -> bool:
        """Whether the operator named this host, as such or by what it is reached through."""
        share = Place.read(urlsplit(self._share() or "").netloc)
        if share is not None and share.host == place.host:
            return True
        for name in self.named:
            if name == "*" or (name.startswith("*.") and place.host.endswith(name[1:])):
                return True
            found = Place.read(name)
            if found is not None and found.host == place.host and found.port in (None, place.port):
                return True
        return False

    def same_site(self, origin: str, place: Place, behind_proxy: bool = False) -> bool:
        """Whether a request to `place` with this Origin comes from the page itself, or from a host that is allowed.

        behind_proxy: its page has the proxy's port, which a proxy on this machine may not tell.
        """
        try:
            url = urlsplit(origin.strip().lower())
        except ValueError:
            return False
        sender = Place.read(url.netloc)
        if url.scheme not in DEFAULT_PORTS or sender is None:  # "null" of a sandboxed frame, too
            return False
        if self.allows(sender) or (behind_proxy and sender.loopback and place.loopback):
            return True
        port = sender.port or DEFAULT_PORTS[url.scheme]
        # some proxies leave a port out of Host
        return sender.host == place.host and place.port in (None, port)

    def look(self, method: str, path: str, headers: Iterable[tuple[bytes, bytes]], scheme: str) -> Seen | Refusal:
        """Judge a request by its method, path, headers (names in lower case) and the scheme it came by."""
        found: dict[str, list[str]] = {}
        for name, value in headers:
            found.setdefault(name.decode("latin-1"), []).append(value.decode("latin-1"))
        hosts = [Place.read(host) for host in found.get("host", ())]
        if len(hosts) != 1 or hosts[0] is None or not path.startswith("/"):
            return Refusal(400, "The request names no host, or not one alone.")
        place = hosts[0]
        forwarded = _first(found, "x-forwarded-host")
        for named in (place, Place.read(forwarded)) if forwarded else (place,):
            if named is None:
                return Refusal(400, "The header X-Forwarded-Host names no host.")
            if not self.answers_to(named):
                return Refusal(403, foreign_host(named))
            place = named
        told = _first(found, "x-forwarded-prefix").rstrip("/")
        prefix = self.prefix or (told if len(told) <= 200 and PREFIX.fullmatch(told) else "")
        proto = _first(found, "x-forwarded-proto").lower()
        scheme = proto if proto in DEFAULT_PORTS else scheme
        inner = path[len(prefix) :] if prefix and path.startswith(f"{prefix}/") else path
        if FETCHING.match(inner) or UNUSED.match(inner):
            return Refusal(404, "There is nothing here.")
        origins = found.get("origin", [])
        foreign = not all(self.same_site(origin, place, bool(prefix)) for origin in origins)
        changing = method not in ("GET", "HEAD")
        if not origins and changing and _first(found, "sec-fetch-site") == "cross-site":
            foreign = True
        if foreign and (changing or inner.startswith(f"{API}/")):
            return Refusal(403, FOREIGN_ORIGIN)
        if origins and not foreign and (place.loopback or place.address):
            url = urlsplit(origins[0].strip().lower())  # a proxy that hides the page's address: the browser tells it
            scheme, place = url.scheme, Place.read(url.netloc) or place
        if self.public and self.public[1]:
            scheme, place = self.public[0], self.public[1]
        return Seen(place, scheme, prefix, foreign)


FOREIGN_ORIGIN = (
    "This server takes no requests from the pages of other sites: whoever runs it can allow one with --allow-host NAME "
    "or the variable VLCOMPARE_ALLOW_HOST."
)


def foreign_host(place: Place) -> str:
    """The sentence for a host that is not answered to."""
    return (
        f"This server does not answer to the name {place.host[:100]}: whoever runs it can allow it with "
        f"--allow-host {place.host[:100]} or the variable VLCOMPARE_ALLOW_HOST."
    )


def _first(headers: Mapping[str, list[str]], name: str) -> str:
    """The first value of a header that proxies add to; "" where there is none."""
    return headers.get(name, [""])[0].split(",")[0].strip()
