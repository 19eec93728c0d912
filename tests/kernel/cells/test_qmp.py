"""A QEMU that its guest has taken over says what it likes; the kernel gives our errors only."""

from __future__ import annotations

import asyncio
import contextlib
import json

import pytest

from casemate.errors import HostError
from casemate.kernel.cells.channels import connect, listen
from casemate.kernel.cells.qmp import Qmp

GREETING = {"QMP": {"version": {"qemu": {"major": 7, "minor": 2, "micro": 0}}, "capabilities": []}}


def served(path, greeting, answers, talk):
    """Serve one connection: greet, then give each command its answer, after any noise before it."""

    async def serve(reader, writer):
        with contextlib.suppress(ConnectionError):
            writer.write(greeting)
            for noise, answer in answers:
                asked = json.loads(await reader.read(65536) or b"{}")
                writer.write(noise + line({**answer, "id": asked.get("id")}))
            await reader.read(1)
        writer.close()

    async def body():
        with listen(path) as channel:
            channel.setblocking(False)
            server = await asyncio.start_unix_server(serve, sock=channel)
            try:
                return await asyncio.wait_for(talk(), 100)
            finally:
                server.close()

    return asyncio.run(body())


def line(value):
    return json.dumps(value).encode() + b"\r\n"


@pytest.mark.parametrize(
    "garbage",
    [
        b"\n",
        b"\xff\xfe\x00\n",
        b"[]\n",
        b'"QMP"\n',
        b"{}\n",
        b'{"QMP": 1}\n',
        b'{"QMP": {"version": [], "capabilities": 7}}\n',
        b"[" * 100_000 + b"\n",
        b"x" * (12 << 20) + b"\n",
    ],
)
def test_a_senseless_greeting_is_our_error(tmp_path, garbage):
    async def talk():
        await Qmp.open(tmp_path / "qmp.sock", lambda *_: None)

    with pytest.raises(HostError) as caught:
        served(tmp_path / "qmp.sock", garbage, [], talk)
    assert caught.value.code == "qmp"


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ({"return": []}, "qmp"),
        ({"return": {"status": 7}}, "qmp"),
        ({"return": None}, "qmp"),
        ({"error": {"class": "GenericError", "desc": "no"}}, "qmp-refused"),
        ({"error": 7}, "qmp"),
        ({"neither": 1}, "qmp"),
    ],
)
def test_a_senseless_answer_is_our_error(tmp_path, answer, code):
    async def talk():
        qmp = await Qmp.open(tmp_path / "qmp.sock", lambda *_: None)
        try:
            await qmp.status()
        finally:
            await qmp.close()

    answers = [(b"", {"return": {}}), (b"", answer)]
    with pytest.raises(HostError) as caught:
        served(tmp_path / "qmp.sock", line(GREETING), answers, talk)
    assert caught.value.code == code


def test_senseless_events_are_passed_over(tmp_path):
    seen = []

    async def talk():
        qmp = await Qmp.open(tmp_path / "qmp.sock", lambda name, data: seen.append((name, data)))
        try:
            assert await qmp.status() == "running"
            await asyncio.sleep(0)
        finally:
            await qmp.close()

    noise = [
        {"event": "SHUTDOWN", "data": {"reason": 7}, "timestamp": {}},
        {"event": 7, "timestamp": {}},
        {"event": "RESET", "data": "x", "timestamp": {}},
    ]
    running = {"return": {"status": "running"}}
    answers = [(b"", {"return": {}}), (b"".join(map(line, noise)), running)]
    served(tmp_path / "qmp.sock", line(GREETING), answers, talk)
    assert seen == [("SHUTDOWN", {"reason": 7}), ("RESET", {})]


def test_a_socket_works_however_long_its_path(tmp_path):
    place = tmp_path / ("x" * 120)
    place.mkdir()
    with listen(place / "qmp.sock"), connect(place / "qmp.sock") as channel:
        assert channel.fileno() >= 0
    with pytest.raises(HostError):
        connect(place / "qmp.sock")
