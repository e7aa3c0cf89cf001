"""Rate limits: files and bytes sent within the last hour, by client and in total, and concurrent requests.

A client is an IP address, since programs keep no cookies: the peer's, or the one that a trusted proxy forwards (see
`client_of`). IPv6 addresses count by their /64 network, which one household is given. Uploads are deleted after the
hour for which they are counted, so the limits bound what is on the disk; its free space is checked too, since other
programs write to it.
"""

from __future__ import annotations

import ipaddress
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from vlcompare.ui.server.refusal import Refused

HOUR = 3600.0
KEPT_FREE = 2**30  # bytes of the disk; a tenth of a smaller one
MAX_CLIENTS = 10_000  # accounts in memory
DISK_CHECK_BYTES = 4 * 2**20  # uploaded between two checks of the disk's free space


@dataclass(frozen=True, slots=True)
class Quotas:
    """Limits within an hour, and of concurrent requests."""

    files: int = 600  # uploaded by one client
    size: int = 2 * 2**30  # bytes of one client, in uploads and all other requests
    all_files: int = 6000
    all_size: int = 8 * 2**30
    at_once: int = 200  # requests of one client, open event streams included
    all_at_once: int = 600


@dataclass
class _Account:
    """What one client, or all clients, sent within the hour."""

    sent: deque[tuple[float, int, int]] = field(default_factory=deque)  # when, files, bytes
    files: int = 0
    size: int = 0
    at_once: int = 0

    def add(self, now: float, files: int, size: int) -> None:
        self.files += files
        self.size += size
        if self.sent and now - self.sent[-1][0] < 10:  # keeps the number of entries small
            when, more_files, more_size = self.sent.pop()
            self.sent.append((when, files + more_files, size + more_size))
        else:
            self.sent.append((now, files, size))

    def forget(self, now: float) -> None:
        while self.sent and now - self.sent[0][0] > HOUR:
            _, files, size = self.sent.popleft()
            self.files -= files
            self.size -= size


class RateLimiter:
    """One server's accounts, used from one event loop. free: returns the bytes that the disk may still take."""

    def __init__(self, quotas: Quotas, free: Callable[[], int], clock: Callable[[], float] = time.monotonic) -> None:
        self.quotas = quotas
        self._free = free
        self._clock = clock
        self._all = _Account()
        self._clients: dict[str, _Account] = {}
        self._unchecked = DISK_CHECK_BYTES  # bytes since the last check

    def open(self, client: str) -> None:
        """Count a request that begins; `close` must follow. Raises Refused."""
        account = self._account(client)
        if account.at_once >= self.quotas.at_once:
            raise Refused(429, f"Too many requests at once: {self.quotas.at_once} of yours are at work already.")
        if self._all.at_once >= self.quotas.all_at_once:
            raise Refused(503, "The server has too many requests at once: try again in a while.")
        account.at_once += 1
        self._all.at_once += 1

    def close(self, client: str) -> None:
        self._account(client).at_once -= 1
        self._all.at_once -= 1

    def add(self, client: str, files: int, size: int, *, upload: bool) -> None:
        """Count a part of a request's body. Raises Refused; a refused part is not kept, so it does not count."""
        account, quotas, now = self._account(client), self.quotas, self._clock()
        self._all.forget(now)
        if account.files + files > quotas.files or account.size + size > quotas.size:
            mega = quotas.size // 2**20
            sentence = f"At most {quotas.files} files and {mega} MiB are taken from you within an hour: try later."
            raise Refused(429, sentence)
        if self._all.files + files > quotas.all_files or self._all.size + size > quotas.all_size:
            raise Refused(429, "The server has taken as much as it keeps within an hour: try later.")
        account.add(now, files, size)
        self._all.add(now, files, size)
        self._unchecked += size
        if upload and (files or self._unchecked >= DISK_CHECK_BYTES):
            self._unchecked = 0
            if self._free() <= 0:
                raise Refused(507, "The server's disk is too full for an upload: try later.")

    def _account(self, client: str) -> _Account:
        now = self._clock()
        account = self._clients.get(client)
        if account is None:
            if len(self._clients) >= MAX_CLIENTS:
                self._tidy(now)
            account = self._clients[client] = _Account()
        account.forget(now)
        return account

    def _tidy(self, now: float) -> None:
        """Drop accounts that are idle for an hour; if there are none, those that sent least."""
        for account in self._clients.values():
            account.forget(now)
        idle = [name for name, account in self._clients.items() if not account.at_once]
        idle.sort(key=lambda name: (self._clients[name].files, self._clients[name].size))
        for name in idle[: max(1, len(idle) // 2)]:
            del self._clients[name]


def free_space(folder: Path) -> int:
    """Bytes that may still be written to the disk of `folder`; at most 0 if it is too full."""
    try:
        usage = shutil.disk_usage(folder)
    except OSError:
        return 0
    return usage.free - min(KEPT_FREE, usage.total // 10)


def client_of(peer: str, forwarded: Iterable[str], behind_proxy: bool) -> str:
    """The client's address: `peer`, or the last public address that a trusted proxy forwards.

    For the proxies in FORWARDED_ALLOW_IPS (default: loopback) uvicorn has replaced the peer by the forwarded address.
    behind_proxy: every request comes through a proxy, as on a Space; addresses that its inner machines add are private,
    and addresses that a client forges come before its real one.
    """
    if behind_proxy:
        for value in reversed([part.strip() for line in forwarded for part in line.split(",")]):
            try:
                address = ipaddress.ip_address(value)
            except ValueError:
                break
            if address.is_global:
                peer = value
                break
    try:
        address = ipaddress.ip_address(peer)
    except ValueError:
        return peer
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is None:
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)
