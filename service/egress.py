"""The one way out: HTTPS to addresses that a stranger may choose, and never into the operator's own network.

A URL is checked, its host is resolved once, every address that comes back is held against the tables below, and the
connection goes to exactly such an address, while TLS and `Host` go by the name. Nothing is redirected, nothing comes
from the environment but the trusted certificates, and a request has a deadline as a whole.
"""

from __future__ import annotations

import contextlib
import ipaddress
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from urllib.parse import quote, urlsplit

import httpcore
import httpx
import idna

from distill.errors import InputError
from service.settings import settings

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolver = Callable[[str, int], list[str]]
"""From a host and a port to all its addresses; raises OSError."""

_PORTS = (443, 8443)
_MAX_URL = 4096
_SAFE = "/?%:@!$&'()*+,;=~-._"  # what stays as it was written, in paths and queries
_MAX_ADDRESSES = 8
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
# IANA's registries of special addresses, and what is multicast or reserved; `is_global` differs between Pythons.
_NOT_PUBLIC_4 = [
    ipaddress.IPv4Network(text)
    for text in (  # noqa: SIM905
        "0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24 192.0.2.0/24 "
        "192.88.99.0/24 192.168.0.0/16 198.18.0.0/15 198.51.100.0/24 203.0.113.0/24 224.0.0.0/4 240.0.0.0/4"
    ).split()
]
_PUBLIC_6 = ipaddress.IPv6Network("2000::/3")
_NOT_PUBLIC_6 = [ipaddress.IPv6Network(text) for text in ("2001::/23", "2001:db8::/32", "3fff::/20")]
_6TO4, _NAT64 = ipaddress.IPv6Network("2002::/16"), ipaddress.IPv6Network("64:ff9b::/96")
_ISATAP = (0x00005EFE, 0x02005EFE)  # the upper half of an interface's number, before its IPv4 address


class Unreachable(Exception):
    """No answer for now, and why: the line, the name or the host; another try may do better."""


@dataclass(frozen=True, kw_only=True)
class Policy:
    """Whom the operator lets in besides the public internet: hosts with their ports, at any address."""

    allowed: frozenset[tuple[str, int]] = frozenset()

    @classmethod
    def of(cls, hosts: str) -> Policy:
        """From a list such as ``files.internal, localhost:8443``; without a port it is 443.

        Raises:
            ValueError: what stands there is no host.
        """
        entries = hosts.replace(",", " ").split()
        try:
            if "/" in hosts or "@" in hosts:
                raise _refusal("Hosts and ports are wanted, no URLs.")
            places = [urlsplit(f"//{entry}") for entry in entries]
            return cls(allowed=frozenset((_host(place.hostname or ""), place.port or 443) for place in places))
        except (InputError, ValueError) as error:
            raise ValueError(f"LIMBECK_REMOTE_ALLOW_HOSTS={hosts!r}: {error}") from error


@dataclass(frozen=True, kw_only=True)
class Target:
    """A URL that may be asked for, if its addresses allow it.

    Attributes:
        host: a name in ASCII and lower case, or an address, without brackets.
        port: of TCP.
        path: with the query, encoded.
        policy: under which it was let through.
    """

    host: str
    port: int
    path: str
    policy: Policy

    @property
    def authority(self) -> str:
        """Host and port as a URL has them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == 443 else f"{host}:{self.port}"

    @property
    def is_allowed(self) -> bool:
        """Whether the operator named it."""
        return (self.host, self.port) in self.policy.allowed


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Seconds of one request.

    Attributes:
        connect: to each address, and for the handshake.
        headers: until the answer begins.
        idle: without a byte.
        total: in all.
    """

    connect: float = 10.0
    headers: float = 30.0
    idle: float = 30.0
    total: float = 3600.0


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What came back; the body raises :class:`Unreachable` when the line breaks or a limit is passed."""

    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    body: Iterator[bytes]


def policy() -> Policy:
    """The operator's."""
    return Policy.of(settings().remote_allow_hosts)


def check_url(url: str, policy: Policy) -> Target:
    """Take a URL apart; no name is resolved.

    Raises:
        InputError: ``invalid_value``, and which rule it breaks. The message never holds more of it than the host.
    """
    if len(url) > _MAX_URL or not url.isprintable() or re.search(r"[\s\\]", url):
        raise _refusal(f"The URL has blanks, control signs or backslashes, or over {_MAX_URL} characters.")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or 443
    except ValueError:
        raise _refusal("This is no URL: its host or its port cannot be read.") from None
    if parts.scheme != "https":
        raise _refusal(f"The scheme is {parts.scheme[:20]!r}; only https is fetched.")
    if "@" in parts.netloc:
        raise _refusal("The URL holds a user name or a password.", hint="Use a signed URL, or upload the file.")
    path = quote(parts.path or "/", safe=_SAFE) + ("?" + quote(parts.query, safe=_SAFE) if parts.query else "")
    if "[" in parts.netloc and ":" not in host:  # only an IPv6 address stands in brackets
        raise _refusal("The host is no IPv6 address.")
    target = Target(host=_host(host), port=port, path=path, policy=policy)
    if target.is_allowed:
        return target
    if port not in _PORTS:
        raise _refusal(f"Port {port} is not asked; only {' and '.join(map(str, _PORTS))} are.")
    address = _address(target.host)
    is_own = target.host == "localhost" or target.host.endswith(".localhost")
    if is_own or (address is not None and not is_public(address)):
        raise no_public_address(target.host)
    return target


def _refusal(message: str, *, hint: str = "Give a plain https URL of a public host, or upload the file.") -> InputError:
    return InputError("invalid_value", message, hint=hint)


def no_public_address(host: str) -> InputError:
    """The same words for a name without addresses and for one with private ones: they tell nothing of the network."""
    return _refusal(
        f"No public address is known for {host!r}.",
        hint="Upload the file; a host inside the operator's network must be in LIMBECK_REMOTE_ALLOW_HOSTS.",
    )


def _host(host: str) -> str:
    """In the one form that is resolved, compared and verified.

    Raises:
        InputError: ``invalid_value``, it is neither a name nor an address in its usual form.
    """
    if ":" in host:
        address = _address(host)
        if address is None or "%" in host:
            raise _refusal("The host is no IPv6 address.")
        return str(address)
    try:
        name = host if host.isascii() else idna.encode(host, uts46=True).decode()
    except idna.IDNAError:
        raise _refusal("The host is no valid international name.") from None
    name = name.lower().removesuffix(".")
    if _address(name) is not None:
        return name
    labels = name.split(".")
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise _refusal("The host is no valid name.")
    if re.fullmatch(r"[0-9]+|0x[0-9a-f]*", labels[-1]):  # resolvers take such for an address, each in its own way
        raise _refusal("The host is a number.", hint="Write an address as four decimal numbers.")
    return name


def _address(text: str) -> Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def is_public(address: Address) -> bool:
    """Whether an address belongs to the public internet, and so does the IPv4 address inside of it, if there is one."""
    if isinstance(address, ipaddress.IPv4Address):
        return not any(address in network for network in _NOT_PUBLIC_4)
    number = int(address)
    if address.ipv4_mapped is not None:
        return is_public(address.ipv4_mapped)
    if address in _NAT64:
        return is_public(ipaddress.IPv4Address(number & 0xFFFFFFFF))
    if address in _6TO4:
        return is_public(ipaddress.IPv4Address(number >> 80 & 0xFFFFFFFF))
    if address.scope_id is not None or address not in _PUBLIC_6 or number >> 32 & 0xFFFFFFFF in _ISATAP:
        return False
    return not any(address in network for network in _NOT_PUBLIC_6)


def resolve(host: str, port: int) -> list[str]:
    """All addresses that this machine finds for a host."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def addresses_of(target: Target, *, resolver: Resolver = resolve) -> list[str]:
    """Where a target may be connected to.

    Raises:
        InputError: ``invalid_value``, one of its addresses is not public.
        Unreachable: it has none for now.
    """
    try:
        found = [target.host] if _address(target.host) else resolver(target.host, target.port)
    except (OSError, UnicodeError):
        found = []
    if not found:
        raise Unreachable(no_public_address(target.host).message)
    if not target.is_allowed:
        for text in found:
            address = _address(text)
            if address is None or not is_public(address):
                raise no_public_address(target.host)
    return found[:_MAX_ADDRESSES]


@contextlib.contextmanager
def request(
    method: str,
    target: Target,
    *,
    headers: Mapping[str, str],
    content: bytes | None = None,
    limits: Limits,
    resolver: Resolver = resolve,
) -> Iterator[Answer]:
    """Ask a target, over a connection of this request's own.

    Raises:
        InputError: ``invalid_value``, its addresses are not public.
        Unreachable: no connection, no sound certificate, no answer in time.
    """
    line = _Line(addresses_of(target, resolver=resolver), limits)
    url = httpcore.URL(scheme="https", host=target.host, port=target.port, target=target.path)
    sent = {"Host": target.authority, "User-Agent": "limbeck", "Accept-Encoding": "identity", **headers}
    timeout = {"connect": limits.connect, "read": limits.idle, "write": limits.idle, "pool": limits.connect}
    with _told(target), httpcore.ConnectionPool(ssl_context=certificates(), network_backend=line) as pool:
        line.until(limits.headers)
        with pool.stream(
            method, url, headers=list(sent.items()), content=content, extensions={"timeout": timeout}
        ) as response:
            line.until(limits.total)
            names = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers}
            yield Answer(status=response.status, headers=names, body=_body(target, response))


def _body(target: Target, response: httpcore.Response) -> Iterator[bytes]:
    with _told(target):
        yield from response.iter_stream()


@contextlib.contextmanager
def _told(target: Target) -> Iterator[None]:
    """The library's errors in our words: what broke, with the host alone."""
    try:
        yield
    except httpcore.TimeoutException as error:
        raise Unreachable(f"{target.authority} did not answer in time.") from error
    except (httpcore.NetworkError, httpcore.ProtocolError, ssl.SSLError) as error:
        why = "has no certificate that is trusted for it" if "CERTIFICATE" in str(error).upper() else "broke off"
        raise Unreachable(f"{target.authority} {why}.") from error


@cache
def certificates() -> ssl.SSLContext:
    """Verifying, with the certificates of SSL_CERT_FILE or SSL_CERT_DIR, else those of certifi."""
    return httpx.create_ssl_context()


@dataclass
class _Line(httpcore.NetworkBackend):
    """Connects to addresses that were checked, whatever name it is asked for, and keeps the deadline."""

    addresses: Iterable[str]
    limits: Limits
    began: float = field(default_factory=time.monotonic)
    deadline: float = 0.0

    def until(self, seconds: float) -> None:
        """Let what is under way last so long, from the request's beginning."""
        self.deadline = self.began + min(seconds, self.limits.total)

    def left(self, timeout: float | None) -> float:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise httpcore.ReadTimeout("past the deadline")
        return left if timeout is None else min(timeout, left)

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        failure: Exception = httpcore.ConnectError("no address")
        for address in self.addresses:
            try:
                wire = httpcore.SyncBackend().connect_tcp(address, port, self.left(timeout), None, socket_options)
                return _Stream(wire, self)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure


@dataclass
class _Stream(httpcore.NetworkStream):
    """A connection whose every wait ends at the deadline: a sender of a byte now and then does not hold us."""

    wire: httpcore.NetworkStream
    line: _Line

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self.wire.read(max_bytes, self.line.left(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self.wire.write(buffer, self.line.left(timeout))

    def close(self) -> None:
        self.wire.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        return _Stream(self.wire.start_tls(ssl_context, server_hostname, self.line.left(timeout)), self.line)

    def get_extra_info(self, info: str) -> Any:
        return self.wire.get_extra_info(info)
