"""Requests written by hand, as clients nobody listed may write them, over TLS to a running host."""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from casemate.hostd.http import Protocol
from casemate.hostd.replica import FRAGMENTS_KEPT, VERSIONS_KEPT, Replica
from casemate.testing.fakekernel import PASSWORD, FakeKernel
from casemate.testing.hostsimulator import HostSimulator
from casemate.testing.soapclient import ENVELOPE
from casemate.vim25 import versions
from casemate.vim25.values import MoRef

SERVICE = '<_this type="ServiceInstance">ServiceInstance</_this>'
CLOCK = ENVELOPE.format(f'<CurrentTime xmlns="urn:vim25">{SERVICE}</CurrentTime>').encode()
CONTENT = ENVELOPE.format(f'<Fetch xmlns="urn:vim25">{SERVICE}<prop>content</prop></Fetch>')
NAME = '<Fetch xmlns="urn:vim25"><_this type="HostSystem">ha-host</_this><prop>name</prop></Fetch>'
SPEC = (
    "<{0}propSet><{0}type>HostSystem</{0}type>{1}</{0}propSet>"
    '<{0}objectSet><{0}obj type="HostSystem">ha-host</{0}obj>{2}</{0}objectSet>'
)


@dataclass(frozen=True)
class Host:
    simulator: HostSimulator
    session: str

    @contextmanager
    def connected(self) -> Iterator[ssl.SSLSocket]:
        trust = ssl.create_default_context(cadata=self.simulator.certificate.decode())
        plain = socket.create_connection(("127.0.0.1", self.simulator.port), timeout=60)
        with trust.wrap_socket(plain, server_hostname="localhost") as connection:
            yield connection

    def send(self, request: bytes) -> bytes:
        """Send a request that asks for the end of the connection; return all that comes."""
        with self.connected() as connection:
            connection.sendall(request)
            return b"".join(iter(lambda: connection.recv(1 << 16), b""))

    def post(self, body: bytes | str = CLOCK, path: str = "/sdk", **headers: str | None) -> bytes:
        content = body.encode() if isinstance(body, str) else body
        every: dict[str, str | None] = {
            "Host": "localhost",
            "Content-Type": "text/xml",
            "SOAPAction": '"urn:vim25/8.0.3.0"',
            "Content-Length": str(len(content)),
            "Cookie": f'vmware_soap_session="{self.session}"',
            "Connection": "close",
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
        lines = [f"{name}: {value}" for name, value in every.items() if value is not None]
        head = "\r\n".join([f"POST {path} HTTP/1.1", *lines, "", ""]).encode()
        return self.send(head + content)


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with HostSimulator(FakeKernel(vms=2)).running() as simulator:
        login = ENVELOPE.format(
            '<Login xmlns="urn:vim25"><_this type="SessionManager">ha-sessionmgr</_this>'
            f"<userName>root</userName><password>{PASSWORD}</password></Login>"
        )
        answer = Host(simulator, "").post(login, Cookie=None)
        cookie = re.search(rb'set-cookie: vmware_soap_session="(\w+)"', answer)
        yield Host(simulator, cookie[1].decode())


def good(answer: bytes) -> bool:
    return answer.startswith(b"HTTP/1.1 200 OK\r\n")


def fault(answer: bytes) -> str:
    assert answer.startswith(b"HTTP/1.1 500 Internal Server Error\r\n"), answer[:200]
    return re.search(rb'<detail><(\w+)Fault xmlns="urn:vim25" xsi:type="\1">', answer)[1].decode()


@pytest.mark.parametrize(
    "path",
    [
        *("/sdk", "/sdk/", "/sdk/vimService", "/sdk/webService", "/sdk?x=1"),
        *("https://localhost/sdk", "HTTPS://localhost:443/sdk/?a"),
    ],
)
def test_calls_are_taken_where_clients_send_them(host: Host, path: str) -> None:
    assert good(host.post(path=path))


def test_chunks_of_any_size_with_extensions_and_trailers(host: Host) -> None:
    pieces = (CLOCK[place : place + 7] for place in range(0, len(CLOCK), 7))
    chunks = b"".join(b"%x;ext=1\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    body = chunks + b"0\r\nX-Trailer: 1\r\n\r\n"
    for coding in ("chunked", "Chunked"):
        assert good(host.post(body, Content_Length=None, Transfer_Encoding=coding))


def test_a_client_may_ask_before_it_sends_the_body(host: Host) -> None:
    head = f"POST /sdk HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: {len(CLOCK)}"
    with host.connected() as connection:
        connection.sendall(f"{head}\r\nConnection: close\r\n\r\n".encode())
        assert connection.recv(1 << 16) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(CLOCK)
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 ")


def test_http_1_0_gets_its_answer_and_the_end(host: Host) -> None:
    for extra in ("", "Connection: keep-alive\r\n"):
        head = f"POST /sdk HTTP/1.0\r\n{extra}Content-Length: {len(CLOCK)}\r\n"
        cookie = f"Cookie: vmware_soap_session={host.session}\r\n\r\n"
        assert b"CurrentTimeResponse" in host.send((head + cookie).encode() + CLOCK)


def test_requests_that_come_together_are_answered_in_turn(host: Host) -> None:
    one = (
        f"POST /sdk HTTP/1.1\r\nHost: x\r\nCookie: vmware_soap_session={host.session}\r\n"
        "Content-Length: {}\r\n{}\r\n{}"
    )
    again = NAME.join(ENVELOPE.split("{}"))
    both = one.format(len(CLOCK), "", CLOCK.decode())
    both += one.format(len(again), "Connection: close\r\n", again)
    answer = host.send(both.encode())
    assert re.findall(rb"<(\w+Response) ", answer) == [b"CurrentTimeResponse", b"FetchResponse"]


def test_head_tells_what_get_would_send(host: Host) -> None:
    for path in ("/", "/ui/", "/sdk/vimServiceVersions.xml"):
        request = f"{{}} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        head, whole = (host.send(request.format(m).encode()) for m in ("HEAD", "GET"))
        announced, _, body = whole.partition(b"\r\n\r\n")
        assert head.endswith(b"\r\n\r\n")
        length = re.compile(rb"content-length: (\d+)")
        assert length.search(head)[1] == length.search(announced)[1] == b"%d" % len(body)


def test_no_redirection_repeats_the_host_header(host: Host) -> None:
    for path in ("/ui", "/sdk/vim25", "/folder/", "/attestation", "/ticket", "/nfc"):
        answer = host.send(
            f"GET {path} HTTP/1.1\r\nHost: evil\r\nConnection: close\r\n\r\n".encode()
        )
        assert b"evil" not in answer
    ui = host.send(b"GET /ui HTTP/1.1\r\nHost: evil\r\nConnection: close\r\n\r\n")
    assert b"\r\nlocation: /ui/\r\n" in ui


@pytest.mark.parametrize(
    "form",
    [
        'vmware_soap_session="{}"; Path=/; HttpOnly; Secure;',
        'vmware_soap_session="{}"; Path=/; HttpOnly; SameSite=Strict; Secure;',
        "vmware_soap_session={}",
        'a=b; vmware_soap_session="{}"; c=d',
        '$Version=1; vmware_soap_session="{}"; $Path=/',
        "vmware_soap_session={}; vmware_soap_session=" + "de" * 16,
        "vmware_soap_session=" + "de" * 16 + "; vmware_soap_session={}",
        "vmware_soap_session={}\r\nCookie: vmware_client=VMware",
        "vmware_client=VMware\r\nCookie: vmware_soap_session={}",
    ],
)
def test_a_cookie_comes_back_in_many_forms(host: Host, form: str) -> None:
    call = ENVELOPE.format(NAME)
    assert good(host.post(call, Cookie=form.format(host.session)))


@pytest.mark.parametrize(
    "form", ["xvmware_soap_session={}", "vmware_soap_session={}x", "VMWARE_SOAP_SESSION={}", ""]
)
def test_what_is_not_the_cookie_is_no_session(host: Host, form: str) -> None:
    cookie = form.format(host.session)
    assert fault(host.post(ENVELOPE.format(NAME), Cookie=cookie)) == "NotAuthenticated"


@pytest.mark.parametrize(
    ("action", "release"),
    [
        *(('"urn:vim25"', "4.0"), (None, "4.0"), ("", "4.0"), ("urn:internalvim25/5.0", "4.0")),
        *((f'"urn:vim25/{one}"', one) for one in ("2.5", "2.5u2server", "4.0", "5.1", "6.0")),
        *((f"urn:vim25/{one}", one) for one in ("6.7.3", "7.0.0.0", "8.0.2.0", "9.1.0.0")),
        ("urn:vim25/99.0.0.0", "9.1.0.0"),
    ],
)
def test_answers_stay_within_the_version_that_was_named(
    host: Host, action: str | None, release: str
) -> None:
    answer = host.post(CONTENT, SOAPAction=action)
    assert good(answer)
    version = versions.of_release(release)
    for member, since in (
        ("licenseManager", "2.5"),
        ("localizationManager", "4.0"),
        ("guestOperationsManager", "5.0"),
        ("cryptoManager", "6.5"),
    ):
        expected = versions.visible(version, versions.of_release(since))
        assert (f"<{member} ".encode() in answer) is expected, member


@pytest.mark.parametrize(
    ("accepted", "packed"),
    [
        *(("gzip", True), ("gzip, deflate", True), ("GZIP;q=0.5", True), ("deflate, gzip", True)),
        *(("", False), ("identity", False), ("gzip;q=0", False), ("gzip; q=0.0, br", False)),
    ],
)
def test_what_is_long_is_compressed_for_those_who_say_so(
    host: Host, accepted: str, packed: bool
) -> None:
    spec = SPEC.format("", "<all>true</all>", "")
    collector = '<_this type="PropertyCollector">ha-property-collector</_this>'
    call = f"<specSet>{spec}</specSet>"
    call = f'<RetrieveProperties xmlns="urn:vim25">{collector}{call}</RetrieveProperties>'
    answer = host.post(ENVELOPE.format(call), Accept_Encoding=accepted)
    assert good(answer)
    assert (b"content-encoding: gzip" in answer) is packed


def enveloped(call: str) -> bytes:
    return ENVELOPE.format(call).encode()


PREFIXED = (
    '<v:Fetch xmlns:v="urn:vim25"><v:_this xsi:type="v:ManagedObjectReference" type="HostSystem">'
    "ha-host</v:_this><v:prop xsi:type='xsd:string'>name</v:prop></v:Fetch>"
)
TRAVERSAL = (
    '<q:selectSet xsi:type="q:TraversalSpec"><q:type>HostSystem</q:type><q:path>vm</q:path>'
    "</q:selectSet>"
)
COLLECTOR = '<_this type="PropertyCollector">ha-property-collector</_this>'


@pytest.mark.parametrize(
    "body",
    [
        b"\xef\xbb\xbf" + enveloped(NAME),
        enveloped(NAME).replace(b"<soapenv:Body>", b"<soapenv:Header><operationID>x</operationID>"
        b'<vcSessionCookie xmlns="urn:vim25">a</vcSessionCookie></soapenv:Header><soapenv:Body>'),
        enveloped(f"<!-- c -->{NAME}"),
        enveloped(NAME.replace("ha-host", "<![CDATA[ha-host]]>")),
        enveloped(NAME.replace("<prop>", "\n  <prop versionId='8.0.3.0' other='x'>")),
        enveloped(NAME.replace("_this type", "_this serverGuid='' type")),
        enveloped(PREFIXED),
        enveloped(PREFIXED.replace("v:prop", "prop")),
        enveloped(
            f'<RetrievePropertiesEx xmlns="urn:vim25"><options><maxObjects>5</maxObjects></options>'
            "<specSet><objectSet><skip>0</skip><obj type='HostSystem'>ha-host</obj></objectSet>"
            "<propSet><pathSet>name</pathSet><all xsi:nil='true'/><type>HostSystem</type>"
            f"</propSet></specSet>{COLLECTOR}</RetrievePropertiesEx>"
        ),
        enveloped(
            '<q:RetrievePropertiesEx xmlns:q="urn:vim25">'
            + COLLECTOR.replace("_this", "q:_this")
            + '<q:specSet xsi:type="q:PropertyFilterSpec">'
            + SPEC.format("q:", "<q:pathSet xsi:type='xsd:string'>name</q:pathSet>", TRAVERSAL)
            + "</q:specSet><q:options/></q:RetrievePropertiesEx>"
        ),
    ],
    ids=range(10),
)  # fmt: skip
def test_xml_may_be_written_in_many_ways(host: Host, body: bytes) -> None:
    answer = host.post(body)
    assert good(answer), answer
    assert b'xsi:type="xsd:string">fake.example<' in answer


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"{}", b"<a/>", enveloped(""), enveloped(NAME + NAME), enveloped("<Fetch/>")),
        enveloped(NAME).replace(b"?>", b"?><!DOCTYPE e>", 1),
        enveloped(NAME).replace(b"schemas.xmlsoap.org/soap/envelope/", b"example.org/"),
        enveloped(NAME.replace("urn:vim25", "urn:internalvim25")),
        enveloped(NAME.replace("HostSystem", "vim25:HostSystem")),
        enveloped(NAME)[:-20],
    ],
)
def test_what_is_no_call_is_an_invalid_request(host: Host, body: bytes) -> None:
    answer = host.post(body)
    assert fault(answer) == "InvalidRequest"
    # pyVmomi looks for these three without a namespace.
    assert re.search(rb"<faultcode>\w+</faultcode><faultstring>[^<]*</faultstring><detail>", answer)


def test_what_is_no_http_is_ended(host: Host) -> None:
    for request in (
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\r\n\r\n",
        b"POST /sdk HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /sdk HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
        b"POST /sdk HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        # Without an end: one that comes whole, in one piece, is short enough to be looked at.
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * ((1 << 16) + 100),
    ):
        assert host.send(request).startswith(b"HTTP/1.1 400 ")


def test_many_versions_and_paths_are_not_all_kept(play: Callable[..., None], monkeypatch) -> None:
    replicas: list[Replica] = []
    made = Replica.__init__

    def noted(self, *arguments) -> None:
        made(self, *arguments)
        replicas.append(self)

    monkeypatch.setattr(Replica, "__init__", noted)

    async def story(running) -> None:
        vm = MoRef("VirtualMachine", "1")
        for release in versions.RELEASES:
            running.root.action = f'"urn:vim25/{release}"'
            assert (await running.root.call("Fetch", vm, "<prop>config</prop>")).status == 200
        for start in range(0, FRAGMENTS_KEPT * 3, 50):
            wanted = "".join(
                f"<pathSet>config.hardware.device[{key}].key</pathSet>"
                for key in range(start, start + 50)
            )
            spec = (
                f"<specSet><propSet><type>VirtualMachine</type>{wanted}</propSet><objectSet>"
                '<obj type="VirtualMachine">1</obj></objectSet></specSet>'
            )
            collector = MoRef("PropertyCollector", "ha-property-collector")
            reply = await running.root.call("RetrieveProperties", collector, spec)
            assert reply.status == 200
        (replica,) = replicas
        assert len(replica._versions) == VERSIONS_KEPT
        kept = [one.fragments[vm] for one in replica._versions.values() if vm in one.fragments]
        assert 0 < max(map(len, kept)) <= FRAGMENTS_KEPT

    play(story)


def test_the_head_of_a_request_is_waited_for_a_while(host: Host) -> None:
    assert Protocol.limit >= 10
    with host.connected() as connection:
        for byte in CLOCK[:3]:
            connection.sendall(bytes([byte]))
    assert good(host.post())
