"""Where the service may be sent, and where not, whatever the URL says and however its name is resolved."""

from __future__ import annotations

import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Iterator

import pytest
import trustme

from distill.errors import InputError
from service import egress
from service.egress import Limits, Policy, Target, Unreachable
from tests.fixtures.https_files import Files

OPEN = Policy()
FORBIDDEN = """
    127.0.0.1 127.255.255.254 0.0.0.0 0.1.2.3 10.0.0.1 172.16.0.1 172.31.255.255 192.168.1.1 169.254.169.254 100.64.0.1
    100.127.255.255 192.0.0.1 192.0.0.8 192.0.0.10 192.0.2.1 192.88.99.1 198.18.0.1 198.19.255.255 198.51.100.1
    203.0.113.1 224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255
    :: ::1 ::127.0.0.1 ::ffff:127.0.0.1 ::ffff:169.254.169.254 ::ffff:0:127.0.0.1 64:ff9b::7f00:1 64:ff9b::a9fe:a9fe
    64:ff9b:1::1 2002:7f00:1:: 2002:a9fe:a9fe::1 2002:c0a8:101::1 2001::1 2001:0:4136:e378:8000:63bf:3fff:fdd2
    2001:10::1 2001:20::1 2001:db8::1 3fff::1 5f00::1 fe80::1 fe80::1%eth0 fec0::1 fc00::1 fd12:3456::1 ff02::1 ff0e::1
    100::1 2600:1f18::5efe:7f00:1 2600:1f18::200:5efe:10.0.0.1
""".split()  # noqa: SIM905
PUBLIC = """
    1.1.1.1 8.8.8.8 9.255.255.255 11.0.0.1 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.1 172.15.255.255
    172.32.0.1 192.0.1.1 198.17.255.255 198.20.0.1 223.255.255.255
    2606:4700:4700::1111 2001:4860:4860::8888 2a00:1450:4001::1 ::ffff:8.8.8.8 64:ff9b::808:808 2002:808:808::1
""".split()  # noqa: SIM905


@pytest.mark.parametrize("text", FORBIDDEN)
def test_addresses_that_are_not_public(text: str) -> None:
    assert not egress.is_public(ipaddress.ip_address(text))


@pytest.mark.parametrize("text", PUBLIC)
def test_addresses_that_are(text: str) -> None:
    assert egress.is_public(ipaddress.ip_address(text))


@pytest.mark.parametrize("text", [text for text in FORBIDDEN if "%" not in text])
def test_no_url_and_no_name_leads_to_them(text: str) -> None:
    host = f"[{text}]" if ":" in text else text
    with pytest.raises(InputError, match="No public address") as refused:
        egress.check_url(f"https://{host}/latest/meta-data", OPEN)
    assert refused.value.code == "invalid_value"
    target = egress.check_url("https://innocent.example/a", OPEN)
    with pytest.raises(InputError, match=r"No public address is known for 'innocent\.example'") as refused:
        egress.addresses_of(target, resolver=lambda *_: ["93.184.215.14", text])
    assert text not in str(refused.value.as_json())  # or it would tell what lies in the network


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/a.zip",
        "file:///etc/passwd",
        "gopher://example.com/",
        "//example.com/a",
        "example.com/a",
        "",
        "https://",
        "https:///a",
        "https://user@example.com/a",
        "https://user:password@example.com/a",
        "https://@example.com/a",
        "https://example.com:22/a",
        "https://example.com:80/a",
        "https://example.com:65536/a",
        "https://example.com:x/a",
        "https://example.com/a b",
        "https://example.com\\@127.0.0.1/",
        "https://example.com/a\r\nHost: b",
        "https://example.com/\x00",
        "https://exam\u2028ple.com/",
        "https://2130706433/",
        "https://0x7f000001/",
        "https://0x7f.0.0.1/",
        "https://0177.0.0.1/",
        "https://127.1/",
        "https://127.0.0.1./",
        "https://1.2.3.4.5/",
        "https://example.0x/",
        "https://\uff11\uff12\uff17.0.0.1/",
        "https://127\u30020\u30020\u30021/",
        "https://\u2460\u2461\u2466.0.0.1/",
        "https://localhost/",
        "https://localhost./",
        "https://LOCALHOST/",
        "https://a.localhost/",
        "https://exa%6dple.com/",
        "https://-a.example/",
        "https://a..example/",
        "https://[::1%25eth0]/",
        "https://[fe80::1%eth0]/",
        "https://[::1/",
        "https://[v1.a]/",
        "https://" + "a" * 64 + ".example/",
        "https://example.com/" + "a" * 4096,
    ],
)
def test_urls_that_break_a_rule(url: str) -> None:
    with pytest.raises(InputError) as refused:
        egress.check_url(url, OPEN)
    assert refused.value.code == "invalid_value"
    assert refused.value.hint
    assert "password" not in str(refused.value.as_json()).replace("a user name or a password", "")


def test_a_url_that_keeps_the_rules() -> None:
    target = egress.check_url("https://Bücher.Example.:8443/a/ü.zip?X-Sig=a%2Fb&c=[d]#part", OPEN)
    assert (target.host, target.port) == ("xn--bcher-kva.example", 8443)
    assert target.path == "/a/%C3%BC.zip?X-Sig=a%2Fb&c=%5Bd%5D"
    assert target.authority == "xn--bcher-kva.example:8443"
    literal = egress.check_url("https://[2606:4700:4700:0::1111]", OPEN)
    assert (literal.host, literal.authority, literal.path) == ("2606:4700:4700::1111", "[2606:4700:4700::1111]", "/")
    assert egress.addresses_of(literal) == ["2606:4700:4700::1111"]


def test_what_the_operator_names_is_asked_and_nothing_beside_it() -> None:
    policy = Policy.of("files.internal, localhost:8444 NAS.lan.:443")
    assert policy.allowed == {("files.internal", 443), ("localhost", 8444), ("nas.lan", 443)}
    target = egress.check_url("https://Files.Internal./a", policy)
    assert egress.addresses_of(target, resolver=lambda *_: ["10.0.0.5"]) == ["10.0.0.5"]
    for url in ("https://localhost/", "https://localhost:8443/", "https://files.internal:8444/"):
        with pytest.raises(InputError):
            egress.check_url(url, policy)
    beside = egress.check_url("https://files.internal:8443/", policy)
    with pytest.raises(InputError, match="No public address"):
        egress.addresses_of(beside, resolver=lambda *_: ["10.0.0.5"])
    with pytest.raises(InputError, match="https"):
        egress.check_url("http://files.internal/", policy)


def test_an_operators_list_that_cannot_be_read_is_no_list() -> None:
    for hosts in ("https://files.internal", "a b:c", "-x"):
        with pytest.raises(ValueError, match="LIMBECK_REMOTE_ALLOW_HOSTS"):
            Policy.of(hosts)


def test_a_name_without_addresses_and_one_with_private_ones_are_told_apart_by_nobody() -> None:
    target = egress.check_url("https://db.corp.example/", OPEN)

    def unknown(host: str, port: int) -> list[str]:
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    with pytest.raises(Unreachable) as absent:
        egress.addresses_of(target, resolver=unknown)
    with pytest.raises(InputError) as private:
        egress.addresses_of(target, resolver=lambda *_: ["10.0.0.5"])
    assert str(absent.value) == private.value.message


def at(files: Files, name: str = "localhost") -> Target:
    """The server under a name that the rules would let through."""
    return Target(host=name, port=files.port, path="/data.npz?sig=1", policy=Policy.of(f"{name}:{files.port}"))


def get(target: Target, *, resolver: egress.Resolver = egress.resolve, **limits: float) -> tuple[int, bytes]:
    with egress.request("GET", target, headers={}, limits=Limits(**limits), resolver=resolver) as answer:
        return answer.status, b"".join(answer.body)


def test_the_connection_goes_to_the_address_and_speaks_of_the_name(trusted_files: Files) -> None:
    trusted_files.content = b"bytes"
    asked: list[str] = []

    def resolver(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"]

    assert get(at(trusted_files), resolver=resolver) == (200, b"bytes")
    assert asked == ["localhost"]
    path, headers = trusted_files.seen[0]
    assert (path, headers["Host"]) == ("/data.npz?sig=1", trusted_files.host)
    assert headers["Accept-Encoding"] == "identity"


def test_a_name_that_is_resolved_otherwise_the_second_time_changes_nothing(trusted_files: Files) -> None:
    """Rebinding: public when it is looked at, loopback when it is connected to."""
    answers = [["192.0.2.1"], ["127.0.0.1"]]  # the first goes nowhere

    def resolver(host: str, port: int) -> list[str]:
        return answers.pop(0)

    with pytest.raises(Unreachable):
        get(at(trusted_files), resolver=resolver, connect=0.3)
    assert len(answers) == 1  # it was asked once
    assert trusted_files.seen == []


def test_the_next_address_is_tried_when_one_does_not_answer(trusted_files: Files) -> None:
    # The server listens at 127.0.0.1 alone.
    assert get(at(trusted_files), resolver=lambda *_: ["127.0.0.2", "127.0.0.1"])[0] == 200


def test_a_certificate_must_be_trusted_and_of_the_name(https_files: Files, trusted_files: Files) -> None:
    other = at(trusted_files, "other.example")
    with pytest.raises(Unreachable, match=r"other\.example:[0-9]+ has no certificate"):
        get(other, resolver=lambda *_: ["127.0.0.1"])
    assert trusted_files.seen == []


def test_an_authority_that_nobody_named_is_not_trusted(https_files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    egress.certificates.cache_clear()
    with pytest.raises(Unreachable, match="certificate"):
        get(at(https_files))


def test_proxies_of_the_environment_are_not_used(trusted_files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert get(at(trusted_files))[0] == 200


def test_redirects_are_told_and_not_followed(trusted_files: Files) -> None:
    trusted_files.statuses = [302]
    trusted_files.location = trusted_files.url("elsewhere")
    assert get(at(trusted_files)) == (302, b"")
    assert len(trusted_files.seen) == 1


@pytest.fixture
def dribbler(authority: tuple[trustme.CA, object]) -> Iterator[tuple[int, threading.Event]]:
    """Sends a byte of its headers every 50 ms, for ever; its port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority[0].issue_cert("localhost").configure_cert(context)
    listener, over = socket.create_server(("127.0.0.1", 0)), threading.Event()

    def serve() -> None:
        try:
            with context.wrap_socket(listener.accept()[0], server_side=True) as line:
                line.sendall(b"HTTP/1.1 200 OK\r\nX-Long: ")
                while not over.wait(0.05):
                    line.sendall(b"a")
        except OSError:
            return  # the other side has had enough

    thread = threading.Thread(target=serve)
    thread.start()
    yield listener.getsockname()[1], over
    over.set()
    listener.close()
    thread.join()


def test_who_sends_a_byte_now_and_then_does_not_hold_us(
    trusted_files: Files, dribbler: tuple[int, threading.Event]
) -> None:
    port = dribbler[0]
    target = Target(host="localhost", port=port, path="/", policy=Policy.of(f"localhost:{port}"))
    began = time.monotonic()
    with pytest.raises(Unreachable, match="in time"):
        get(target, headers=0.5, idle=30, total=60)
    assert time.monotonic() - began < 10
    dribbler[1].set()


def test_silence_ends_a_request(trusted_files: Files) -> None:
    trusted_files.content, trusted_files.pause = b"some bytes", 1.0
    with pytest.raises(Unreachable, match="in time"):
        get(at(trusted_files), idle=0.2)
