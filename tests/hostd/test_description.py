"""The WSDL as toolkits fetch it: without a session, compressed or not, again and again."""

from __future__ import annotations

import gzip
import http.client
import ssl
from collections.abc import Iterator
from urllib.parse import urljoin
from xml.etree import ElementTree as ET

import pytest

from casemate.hostd.description import PATHS
from casemate.testing.hostsimulator import HostSimulator


@pytest.fixture(scope="module")
def host() -> Iterator[HostSimulator]:
    with HostSimulator().running() as running:
        yield running


def fetch(
    host: HostSimulator, path: str, method: str = "GET", **headers: str
) -> tuple[int, dict[str, str], bytes]:
    trust = ssl.create_default_context(cadata=host.certificate.decode())
    connection = http.client.HTTPSConnection("localhost", host.port, context=trust, timeout=20)
    try:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, headers=names)
        reply = connection.getresponse()
        told = {name.lower(): value for name, value in reply.getheaders()}
        return reply.status, told, reply.read()
    finally:
        connection.close()


@pytest.mark.parametrize("start", ["/sdk/vimService.wsdl", "/sdk/vimService?wsdl", "/sdk?WSDL"])
def test_every_document_is_found_from_wherever_a_toolkit_begins(
    host: HostSimulator, start: str
) -> None:
    seen: dict[str, bytes] = {}
    left = [start]
    while left:
        path = left.pop()
        status, _, body = fetch(host, path)
        assert status == 200, path
        seen[path] = body
        for one in ET.fromstring(body).iter():
            place = one.attrib.get("schemaLocation") or one.attrib.get("location", "")
            if place and "://" not in place and (there := urljoin(path, place)) not in seen:
                left.append(there)
    assert set(PATHS[1:]) <= set(seen)
    assert f"https://localhost:{host.port}/sdk/vimService".encode() in seen[start]


def test_what_is_compressed_is_the_same_and_known_again(host: HostSimulator) -> None:
    plain = fetch(host, "/sdk/vim-types.xsd")
    packed = fetch(host, "/sdk/vim-types.xsd", accept_encoding="gzip")
    assert packed[1]["content-encoding"] == "gzip"
    assert gzip.decompress(packed[2]) == plain[2]
    assert len(packed[2]) < len(plain[2]) // 8
    assert int(plain[1]["content-length"]) == len(plain[2])
    again = fetch(host, "/sdk/vim-types.xsd", if_none_match=plain[1]["etag"])
    assert (again[0], again[2]) == (304, b"")
    head = fetch(host, "/sdk/vim-types.xsd", "HEAD")
    assert (head[0], head[2]) == (200, b"")


def test_an_address_that_is_none_is_not_repeated(host: HostSimulator) -> None:
    _, _, body = fetch(host, "/sdk/vimService.wsdl", Host='evil"><x')
    assert b"evil" not in body
    assert b"https://localhost/sdk/vimService" in body


def test_the_description_takes_no_post(host: HostSimulator) -> None:
    assert fetch(host, "/sdk/vim.wsdl", "POST")[0] == 405
    assert fetch(host, "/sdk?wsdl", "POST")[0] == 500
    assert fetch(host, "/sdk")[0] == 405
