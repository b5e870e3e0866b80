"""Requests to addresses that callers name: only to allowed hosts, and to no private address.

The guard resolves a host's name once, checks every address of the answer, and the request then goes to a checked
address. A second look-up, which could name another address (DNS rebinding), never takes place. TLS still verifies the
certificate against the host's name. Clients follow no redirect and use no proxy.

    guard = Guard(hosts=split(settings.webhook_hosts), setting="SKIPVSR_WEBHOOK_HOSTS")
    url = guard.checked(text)                     # at submit: raises InvalidRequest
    async with async_client(guard, timeout) as http:
        await http.post(url, ...)                 # raises AddressRefused for a private address
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterable, Iterator
from functools import cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

import anyio
import anyio.to_thread
import httpx

from jobs.errors import InvalidRequest

_URL_LENGTH: Final = 2048
_PORTS: Final = {"http": 80, "https": 443}
_LOOK_UPS: Final = 8
"""Names that a client resolves at the same time, each in a thread."""
_NAT64: Final = IPv6Network("64:ff9b::/96")
_INTERNAL: Final = tuple(
    map(
        ip_network,
        (
            "192.0.0.0/24",  # protocols of the own network, and metadata of a cloud
            "168.63.129.16",  # a cloud's services for the machine itself, behind a public address
            "192.88.99.0/24",  # relays to IPv6
            "3fff::/20",  # documentation
        ),
    )
)
"""Addresses that Python, or some versions of Python, take for public."""

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


class AddressRefused(InvalidRequest):
    """A URL with a host or an address to which this server sends nothing."""

    title = "Address refused"
    cure = (
        "Name a public host that the server allows. The server's administrator can allow hosts and private networks, "
        "for webhooks with `SKIPVSR_WEBHOOK_HOSTS` and `SKIPVSR_WEBHOOK_NETWORKS`."
    )


def split(text: str) -> tuple[str, ...]:
    """The parts of a comma-separated setting."""
    return tuple(part for given in text.split(",") if (part := given.strip()))


class Guard:
    """Hosts and addresses to which requests may go.

    Args:
        hosts: allowed host names or addresses. `*.example.com` allows all names below example.com, `*` allows all
            hosts.
        networks: private networks or addresses that are allowed, too, for example `10.0.0.0/8`.
        setting: name of the setting with the hosts, for messages.

    Raises:
        ValueError: a network is malformed.
    """

    def __init__(self, hosts: Iterable[str], networks: Iterable[str] = (), *, setting: str) -> None:
        self._hosts = frozenset(host.lower().rstrip(".") for host in hosts)
        self._networks: tuple[Network, ...] = tuple(ip_network(network) for network in networks)
        self._setting = setting

    def checked(self, text: str) -> str:
        """The normal form of a URL, whose host is allowed. No name is resolved.

        Raises:
            AddressRefused: the host is not allowed, or is a private address.
            InvalidRequest: the text is no URL for http or https, or holds a password.
        """
        if len(text) > _URL_LENGTH:
            raise InvalidRequest(f"the URL is longer than {_URL_LENGTH} characters")
        url = _parsed(text)
        if url.scheme not in _PORTS or not url.host:
            raise InvalidRequest(f"{text[:80]!r} is no URL for http or https")
        if url.userinfo:
            raise InvalidRequest("the URL holds a user name or a password, which others could read: leave them out")
        self._check_host(_host(url))
        return str(url.copy_with(fragment=None))

    def addresses(self, host: str, port: int) -> list[str]:
        """Resolve a host; return its addresses, all of them checked.

        Raises:
            AddressRefused: the host is not allowed, or one of its addresses is private.
            OSError: the name cannot be resolved.
        """
        self._check_host(host)
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        addresses = list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))
        for address in addresses:
            self._check_address(address.partition("%")[0], host)
        return addresses

    def _check_host(self, host: str) -> None:
        parents = (f"*{host[place:]}" for place, character in enumerate(host) if character == ".")
        if "*" not in self._hosts and host not in self._hosts and self._hosts.isdisjoint(parents):
            raise AddressRefused(
                f"this server sends no requests to {host[:80]}: its administrator can add the host to {self._setting}"
            )
        try:
            ip_address(host)
        except ValueError:
            return
        self._check_address(host, host)

    def _check_address(self, text: str, host: str) -> None:
        address = ip_address(text)
        if any(address in network for network in self._networks):
            return
        if not all(map(_is_public, _meanings(address))):
            # Without the address: clients would learn addresses of the server's own network.
            raise AddressRefused(f"{host[:80]} has a private address, to which this server sends no requests")


def _parsed(text: str) -> httpx.URL:
    try:
        url = httpx.URL(text)
        port = url.port
    except (httpx.InvalidURL, ValueError):
        url, port = httpx.URL(), 0
    if (port is not None and not 0 < port < 65536) or "%" in url.host or any(character.isspace() for character in text):
        raise InvalidRequest(f"{text[:80]!r} is no valid URL: give an address like https://example.com/hook")
    return url


def _meanings(address: Address) -> Iterator[Address]:
    """The address, and the IPv4 addresses that routers find inside."""
    yield address
    if isinstance(address, IPv6Address):
        inside = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
        if address in _NAT64:
            inside.append(IPv4Address(int(address) & 0xFFFFFFFF))
        yield from (found for found in inside if found is not None)


def _is_public(address: Address) -> bool:
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return True  # `_meanings` yields the address inside, which decides
    local = address.is_multicast or address.is_reserved or getattr(address, "is_site_local", False)
    local = local or any(address in network for network in _INTERNAL)
    translated = isinstance(address, IPv6Address) and address in _NAT64
    return translated or (address.is_global and not local)


def _host(url: httpx.URL) -> str:
    return url.raw_host.decode("ascii").lower().rstrip(".")


def _port(url: httpx.URL) -> int:
    return url.port or _PORTS[url.scheme]


def _to(request: httpx.Request, address: str) -> httpx.Request:
    """The request to one address. The Host header and the name in the certificate stay."""
    return httpx.Request(
        request.method,
        request.url.copy_with(host=address),
        headers=request.headers,
        stream=request.stream,
        extensions={**request.extensions, "sni_hostname": _host(request.url)},
    )


@cache
def _tls() -> ssl.SSLContext:
    """The certificates that every client trusts. Reading the certificates takes long: other requests would wait."""
    return httpx.create_ssl_context(trust_env=False)


class _Transport(httpx.AsyncHTTPTransport):
    def __init__(self, guard: Guard) -> None:
        # No connection is used twice: another host at the same address would get a certificate that nobody checked.
        super().__init__(verify=_tls(), trust_env=False, limits=httpx.Limits(max_keepalive_connections=0))
        self._guard = guard
        self._look_ups = anyio.CapacityLimiter(_LOOK_UPS)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        failure: Exception | None = None
        for address in await anyio.to_thread.run_sync(_resolved, self._guard, request, limiter=self._look_ups):
            try:
                return await super().handle_async_request(_to(request, address))
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                failure = error
        raise failure or httpx.ConnectError("the host has no address", request=request)


def _resolved(guard: Guard, request: httpx.Request) -> list[str]:
    try:
        return guard.addresses(_host(request.url), _port(request.url))
    except (OSError, UnicodeError) as error:
        message = f"the name {_host(request.url)[:80]} cannot be resolved"
        raise httpx.ConnectError(message, request=request) from error


def async_client(guard: Guard, timeout: httpx.Timeout) -> httpx.AsyncClient:
    """A client whose requests the guard checks. Requests may raise AddressRefused, and the errors of httpx."""
    return httpx.AsyncClient(transport=_Transport(guard), timeout=timeout, follow_redirects=False, trust_env=False)
