"""How much each client may send: files and bytes of the last hour, by client and in all, and requests at once.

A client is an address, since programs keep no cookies and a cookie can be thrown away: the peer's, or the one that a
trusted proxy forwards (see `client_of`). IPv6 addresses count by their /64, which is what one household is given.
Uploads are deleted after the hour for which they are counted, so what is counted bounds what lies on the disk; the
disk's free space is looked at besides, for other programs fill it too. Knows nothing of HTTP's messages or gradio.
"""

from __future__ import annotations

import ipaddress
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

HOUR = 3600.0
KEPT_FREE = 2**30  # bytes of the disk; a tenth of a smaller one
MOST_CLIENTS = 10_000  # of whom something is remembered
LOOK_BYTES = 4 * 2**20  # between two looks at the disk


@dataclass(frozen=True, slots=True)
class Quotas:
    """Bounds of what is sent within an hour, and of requests that are at work at once."""

    files: int = 600  # uploaded by one client
    size: int = 2 * 2**30  # bytes of one client, in uploads and all other requests
    all_files: int = 6000
    all_size: int = 8 * 2**30
    at_once: int = 200  # requests of one client, open streams of events among them
    all_at_once: int = 600


@dataclass
class _Account:
    """What one client, or all of them, sent within the hour."""

    sent: deque[tuple[float, int, int]] = field(default_factory=deque)  # when, files, bytes
    files: int = 0
    size: int = 0
    at_once: int = 0

    def add(self, now: float, files: int, size: int) -> None:
        self.files += files
        self.size += size
        if self.sent and now - self.sent[-1][0] < 10:  # few entries, however many are sent
            when, more_files, more_size = self.sent.pop()
            self.sent.append((when, files + more_files, size + more_size))
        else:
            self.sent.append((now, files, size))

    def forget(self, now: float) -> None:
        while self.sent and now - self.sent[0][0] > HOUR:
            _, files, size = self.sent.popleft()
            self.files -= files
            self.size -= size


class TooMuch(Exception):
    """A quota is used up, or the disk is full; the message is a sentence. status: of HTTP."""

    def __init__(self, sentence: str, status: int = 429) -> None:
        super().__init__(sentence)
        self.status = status


class Ledger:
    """The accounts of one server. All use is from one event loop. free: the disk's free bytes above what is kept."""

    def __init__(self, quotas: Quotas, free: Callable[[], int], clock: Callable[[], float] = time.monotonic) -> None:
        self.quotas = quotas
        self._free = free
        self._clock = clock
        self._all = _Account()
        self._clients: dict[str, _Account] = {}
        self._unseen = LOOK_BYTES  # bytes since the last look at the disk

    def open(self, client: str) -> None:
        """A request begins; `close` is owed. Raises TooMuch."""
        account = self._account(client)
        if account.at_once >= self.quotas.at_once:
            raise TooMuch(f"Too many requests at once: {self.quotas.at_once} of yours are at work already.")
        if self._all.at_once >= self.quotas.all_at_once:
            raise TooMuch("The server has too many requests at once: try again in a while.", 503)
        account.at_once += 1
        self._all.at_once += 1

    def close(self, client: str) -> None:
        self._account(client).at_once -= 1
        self._all.at_once -= 1

    def add(self, client: str, files: int, size: int, *, upload: bool) -> None:
        """Some of a request's body has come in. Raises TooMuch; what is refused is not kept, and so not counted."""
        account, quotas, now = self._account(client), self.quotas, self._clock()
        self._all.forget(now)
        if account.files + files > quotas.files or account.size + size > quotas.size:
            mega = quotas.size // 2**20
            raise TooMuch(f"At most {quotas.files} files and {mega} MB are taken from you within an hour: try later.")
        if self._all.files + files > quotas.all_files or self._all.size + size > quotas.all_size:
            raise TooMuch("The server has taken as much as it keeps within an hour: try later.")
        account.add(now, files, size)
        self._all.add(now, files, size)
        self._unseen += size
        if upload and (files or self._unseen >= LOOK_BYTES):
            self._unseen = 0
            if self._free() <= 0:
                raise TooMuch("The server's disk is too full for an upload: try later.", 507)

    def _account(self, client: str) -> _Account:
        now = self._clock()
        account = self._clients.get(client)
        if account is None:
            if len(self._clients) >= MOST_CLIENTS:
                self._tidy(now)
            account = self._clients[client] = _Account()
        account.forget(now)
        return account

    def _tidy(self, now: float) -> None:
        """Forget who sent nothing within the hour; where that is nobody, whoever sent least."""
        for account in self._clients.values():
            account.forget(now)
        idle = [name for name, account in self._clients.items() if not account.at_once]
        idle.sort(key=lambda name: (self._clients[name].files, self._clients[name].size))
        for name in idle[: max(1, len(idle) // 2)]:
            del self._clients[name]


def free_space(folder: Path) -> int:
    """Bytes that may still be written where `folder` is; below zero where its disk is too full."""
    try:
        usage = shutil.disk_usage(folder)
    except OSError:
        return 0
    return usage.free - min(KEPT_FREE, usage.total // 10)


def client_of(peer: str, forwarded: Iterable[str], behind_proxy: bool) -> str:
    """Who sends a request: `peer`, or the last public address that a trusted proxy forwards.

    uvicorn has by then put the forwarded address in the peer's place for the proxies in FORWARDED_ALLOW_IPS (on this
    machine, if none are named). behind_proxy: every request comes by a proxy, as on a Space; the addresses that its
    inner machines add are private, and what a client forges stands before its own.
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
