"""Requests to addresses that callers name: allowed hosts, private addresses, DNS rebinding, redirects."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import anyio
import httpx
import pytest

from jobs.errors import InvalidRequest
from service.outgoing import AddressRefused, Guard, async_client

TIMEOUT = httpx.Timeout(5)
PUBLIC = "93.184.215.14"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/elsewhere":
            self.send_response(302)
            self.send_header("Location", f"http://127.0.0.1:{self.server.server_address[1]}/")
        else:
            self.send_response(200)
        self.send_header("Content-Length", "0")
        self.send_header("Seen-Host", self.headers["Host"])
        self.send_header("Seen-Port", str(self.client_address[1]))
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[HTTPServer]:
    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def get(guard: Guard, *urls: str) -> list[httpx.Response]:
    async def run() -> list[httpx.Response]:
        async with async_client(guard, TIMEOUT) as http:
            return [await http.get(url) for url in urls]

    return anyio.run(run)


def answers(monkeypatch: pytest.MonkeyPatch, *rounds: list[str]) -> list[str]:
    """Make the resolver give these answers, one after the other; return the names that were asked."""
    asked: list[str] = []
    real = socket.getaddrinfo

    def resolve(host: str, port: int, *given: int, **named: int) -> object:
        if not host.endswith(".com"):
            return real(host, port, *given, **named)
        addresses = rounds[min(len(asked), len(rounds) - 1)]
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    monkeypatch.setattr("service.outgoing.socket.getaddrinfo", resolve)
    return asked


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
        "::1",
        "::",
        "fe80::1",
        "fc00::1",
        "fec0::1",
        "ff02::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "192.0.0.192",
        "168.63.129.16",
        "64:ff9b::7f00:1",
        "64:ff9b::c000:c0",
        "64:ff9b:1::7f00:1",
        "3fff::1",
        "2002:7f00:1::",
        "2001:0:4136:e378:8000:63bf:80ff:fffe",
    ],
)
def test_private_addresses_are_refused_in_every_notation(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    guard = Guard(["*"], setting="X")
    literal = f"[{address}]" if ":" in address else address
    with pytest.raises(AddressRefused, match="private address"):
        guard.checked(f"http://{literal}/")
    answers(monkeypatch, [PUBLIC, address])  # one private address among public ones is enough
    with pytest.raises(AddressRefused, match="private address"):
        guard.addresses("example.com", 80)


@pytest.mark.parametrize("address", [PUBLIC, "2606:2800:21f:cb07:6820:80da:af6b:8b2c", "64:ff9b::5db8:d70e"])
def test_public_addresses_are_allowed(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, [address])
    assert Guard(["*"], setting="X").addresses("example.com", 80) == [address]


def test_numbers_that_mean_an_address_are_checked_after_resolution() -> None:
    guard = Guard(["*"], setting="X")
    for host in ("2130706433", "0x7f000001", "127.1", "localhost"):
        with pytest.raises(AddressRefused):
            guard.addresses(host, 80)


def test_only_listed_hosts_are_allowed() -> None:
    guard = Guard(["hooks.example.com", "*.Example.org"], setting="SKIPVSR_WEBHOOK_HOSTS")
    assert guard.checked("https://hooks.example.com/a#part") == "https://hooks.example.com/a"
    assert guard.checked("https://HOOKS.example.com./") == "https://hooks.example.com./"
    assert guard.checked("https://a.b.example.org/") == "https://a.b.example.org/"
    for url in ("https://example.org/", "https://example.com/", "https://badexample.org/"):
        with pytest.raises(AddressRefused, match="SKIPVSR_WEBHOOK_HOSTS"):
            guard.checked(url)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("ftp://example.com/", "http or https"),
        ("example.com/hook", "http or https"),
        ("http://", "http or https"),
        ("http://user:secret@example.com/", "password"),
        ("http://exa mple.com/", "no valid URL"),
        ("http://[::1", "no valid URL"),
        ("http://example.com:99999/", "no valid URL"),
        ("http://example.com/\n", "no valid URL"),
        (f"http://example.com/{'a' * 3000}", "longer"),
    ],
)
def test_malformed_urls_are_refused_with_the_reason(url: str, reason: str) -> None:
    with pytest.raises(InvalidRequest, match=reason):
        Guard(["*"], setting="X").checked(url)


def test_a_malformed_network_is_refused() -> None:
    with pytest.raises(ValueError, match="/99"):
        Guard(["*"], ["10.0.0.0/99"], setting="X")


def test_the_request_goes_to_the_address_that_was_checked(
    receiver: HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = receiver.server_address[1]
    asked = answers(monkeypatch, ["127.0.0.1"], ["10.0.0.1"])  # a second look-up would lead elsewhere
    (response,) = get(Guard(["*"], ["127.0.0.1"], setting="X"), f"http://hooks.example.com:{port}/")
    assert response.headers["seen-host"] == f"hooks.example.com:{port}"
    assert asked == ["hooks.example.com"]


def test_the_next_address_is_tried_when_one_does_not_answer(
    receiver: HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers(monkeypatch, ["127.0.0.9", "127.0.0.1"])
    guard = Guard(["*"], ["127.0.0.0/8"], setting="X")
    assert get(guard, f"http://hooks.example.com:{receiver.server_address[1]}/")[0].status_code == 200


def test_redirects_are_not_followed_and_private_addresses_not_connected(receiver: HTTPServer) -> None:
    port = receiver.server_address[1]
    assert get(Guard(["*"], ["127.0.0.1"], setting="X"), f"http://127.0.0.1:{port}/elsewhere")[0].status_code == 302
    with pytest.raises(AddressRefused):
        get(Guard(["*"], setting="X"), f"http://localhost:{port}/")


def test_an_unknown_name_is_a_connection_error() -> None:
    with pytest.raises(httpx.ConnectError, match="resolved"):
        get(Guard(["*"], setting="X"), "http://does-not-exist.invalid/")


def test_no_connection_is_used_for_two_hosts(receiver: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both hosts have one address; over TLS, the second would get a connection with the first one's certificate."""
    answers(monkeypatch, ["127.0.0.1"])
    hosts = [f"http://{name}.example.com:{receiver.server_address[1]}/" for name in ("a", "b")]
    found = get(Guard(["*"], ["127.0.0.1"], setting="X"), *hosts)
    assert len({response.headers["seen-port"] for response in found}) == 2


@pytest.mark.parametrize(("name", "trusted"), [("hooks.example.com", True), ("other.example.com", False)])
def test_certificates_are_checked_against_the_name(
    name: str, trusted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subject = ["-subj", "/CN=hooks.example.com", "-addext", "subjectAltName=DNS:hooks.example.com"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", *subject, *files],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr("service.outgoing._tls", lambda: trusting(certificate))
    answers(monkeypatch, ["127.0.0.1"])
    url = f"https://{name}:{server.server_address[1]}/"
    try:
        if trusted:
            assert get(Guard(["*"], ["127.0.0.1"], setting="X"), url)[0].status_code == 200
        else:
            with pytest.raises(httpx.ConnectError, match="certificate"):
                get(Guard(["*"], ["127.0.0.1"], setting="X"), url)
    finally:
        server.shutdown()
        server.server_close()


def trusting(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(certificate)
    return context


def test_certificates_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    guard = Guard(["*"], setting="X")
    async_client(guard, TIMEOUT)
    monkeypatch.setattr("ssl.create_default_context", lambda **_: pytest.fail("read again"))
    async_client(guard, TIMEOUT)
