"""Whatever is asked of /folder and /nfc: an answer, no traceback, and nothing outside."""

from __future__ import annotations

import asyncio
import time
from base64 import b64encode
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st

from casemate.calls.messages import FactReply
from casemate.hostd.app import make_app
from casemate.hostd.folder import named
from casemate.hostd.world import World
from casemate.machine.facts import DatastoreFact
from casemate.testing.fakekernel import PASSWORD, USER, FakeKernel

BASIC = b"Basic " + b64encode(f"{USER}:{PASSWORD}".encode())
WORDS = st.sampled_from(
    ["folder", "nfc", "a", "..", "%2e%2e", "%2f", "%00", "%ff", "\\", "disk-0.vmdk", "x" * 300, ""]
)
PATHS = st.lists(WORDS, max_size=6).map(lambda words: "/" + "/".join(words))
QUERIES = st.sampled_from(
    [
        "",
        "dsName=datastore1",
        "dsName=datastore1&dcPath=ha-datacenter",
        "dsName=other",
        "dsName=%ff&dcPath=%00",
        "dcPath=../x&dsName=datastore1",
        "&&=;",
    ]
)
HEADERS = st.lists(
    st.tuples(
        st.sampled_from([b"range", b"cookie", b"authorization", b"content-type", b"user-agent"]),
        st.binary(max_size=40)
        | st.sampled_from(
            [BASIC, b"bytes=0-", b"bytes=-9999", b"bytes=9-1", b"Basic =", b"vmware_cgi_ticket=x"]
        ),
    ),
    max_size=3,
)


async def asked(app, method: str, path: str, query: str, headers: list) -> tuple[int, bytes]:
    sent: list[dict] = []
    scope = {
        "type": "http",
        "method": method,
        "path": path.replace("%2f", "/"),
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "headers": [(b"authorization", BASIC), *headers],
        "client": ("192.0.2.1", 5),
        "scheme": "https",
        "root_path": "",
        "server": ("host", 443),
        "http_version": "1.1",
    }

    async def receive() -> dict:
        return {"type": "http.request", "body": b"body", "more_body": False}

    async def send(message: dict) -> None:
        sent.append(message)

    await app(scope, receive, send)
    body = b"".join(message.get("body", b"") for message in sent[1:])
    return (sent[0]["status"] if sent else 0), body


def test_what_is_called_like_another_s_id_is_meant_by_its_name() -> None:
    world = World()
    first = DatastoreFact("id-1", "store", "/a", 1, 1)
    for fact in (first, replace(first, datastore="id-2", name="id-1")):
        world.fold(FactReply("", 1, "DatastoreFact", fact.key, fact))
    assert named(world, "store") == first
    assert named(world, "id-1").datastore == "id-2"
    assert named(world, "id-2").datastore == "id-2"
    assert named(world, "other") is None


def test_whatever_is_asked_gets_an_answer_and_nothing_outside() -> None:
    with TemporaryDirectory() as place:
        store = Path(place, "datastore1")
        store.mkdir()
        (store / "a").write_text("inside")
        Path(place, "secret").write_text("outside")
        kernel = FakeKernel(volumes=Path(place))
        app = make_app(kernel, clock=lambda: datetime.now(UTC), ticks=time.monotonic)
        loop = asyncio.new_event_loop()
        lifespan = app.router.lifespan_context(app)
        loop.run_until_complete(lifespan.__aenter__())

        @settings(max_examples=150, deadline=None)
        @given(st.sampled_from(["GET", "HEAD", "PUT", "POST", "DELETE"]), PATHS, QUERIES, HEADERS)
        def bent(method: str, path: str, query: str, headers: list) -> None:
            status, body = loop.run_until_complete(asked(app, method, path, query, headers))
            assert 200 <= status < 600
            assert status != 500, (method, path, query, headers, body)
            assert b"outside" not in body

        try:
            bent()
        finally:
            loop.run_until_complete(lifespan.__aexit__(None, None, None))
            loop.run_until_complete(kernel.close())
            loop.run_until_complete(loop.shutdown_default_executor())
            loop.close()
        assert sorted(path.name for path in Path(place).iterdir()) == ["datastore1", "secret"]
        assert Path(place, "secret").read_text() == "outside"
