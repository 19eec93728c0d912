"""VI/JSON: the same interface for browsers, decided in the same order, as strict."""

from __future__ import annotations

import json
import string
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casemate.errors import FormatError
from casemate.hostd.methods.table import REGISTRY
from casemate.hostd.objects import catalog
from casemate.hostd.viewjson import SESSION_HEADER
from casemate.hostd.world import World
from casemate.testing.fakekernel import PASSWORD, FakeKernel
from casemate.vim25 import hidden, jsoncodec, types
from casemate.vim25.shapes import Kind, TypeRef
from casemate.vim25.values import MoRef, Obj, Typed
from casemate.vim25.versions import NEWEST

BASE = "/sdk/vim25/8.0.1.0"


async def post(client, path: str, body: object = None, session: str = ""):
    headers = {"content-type": "application/json"}
    if session:
        headers[SESSION_HEADER] = session
    data = b"" if body is None else json.dumps(body).encode()
    return await client.send("POST", f"{BASE}/{path}", data, headers)


async def get(client, path: str, session: str = ""):
    headers = {SESSION_HEADER: session} if session else {}
    return await client.send("GET", f"{BASE}/{path}", b"", headers)


async def login(host) -> str:
    reply = await post(
        host.anonymous,
        "SessionManager/ha-sessionmgr/Login",
        {"userName": "root", "password": PASSWORD},
    )
    assert reply.status == 200
    assert json.loads(reply.text)["_typeName"] == "UserSession"
    return reply.headers[SESSION_HEADER]


def test_a_browser_logs_in_reads_acts_and_leaves(play: Callable[..., None]) -> None:
    async def story(host) -> None:
        session = await login(host)
        vm = json.loads((await get(host.anonymous, "VirtualMachine/1/summary", session)).text)
        assert vm["config"]["name"] == "vm1"
        assert vm["vm"] == {
            "_typeName": "ManagedObjectReference",
            "type": "VirtualMachine",
            "value": "1",
        }
        task = await post(host.anonymous, "VirtualMachine/1/PowerOnVM_Task", {}, session)
        assert json.loads(task.text)["type"] == "Task"
        out = await post(host.anonymous, "SessionManager/ha-sessionmgr/Logout", None, session)
        assert (out.status, out.text) == (204, "")
        late = await get(host.anonymous, "VirtualMachine/1/summary", session)
        assert json.loads(late.text)["_typeName"] == "NotAuthenticated"

    play(story)


def test_the_collector_answers_in_json_as_well(play: Callable[..., None]) -> None:
    async def story(host) -> None:
        session = await login(host)
        spec = {
            "specSet": [
                {
                    "propSet": [{"type": "VirtualMachine", "pathSet": ["name", "runtime"]}],
                    "objectSet": [
                        {
                            "obj": {"type": "Folder", "value": "ha-folder-vm"},
                            "selectSet": [
                                {
                                    "_typeName": "TraversalSpec",
                                    "type": "Folder",
                                    "path": "childEntity",
                                }
                            ],
                        }
                    ],
                }
            ],
            "options": {},
        }
        path = "PropertyCollector/ha-property-collector/RetrievePropertiesEx"
        reply = json.loads((await post(host.anonymous, path, spec, session)).text)
        names = [o["propSet"][0]["val"] for o in reply["objects"]]
        assert names == [{"_typeName": "string", "_value": f"vm{n}"} for n in (1, 2)]

    play(story)


def test_every_method_is_answered_as_over_soap(play: Callable[..., None]) -> None:
    async def story(host) -> None:
        extra = {SESSION_HEADER: host.root.cookie}
        answered: dict[str, int] = {}
        for name in sorted({*types.method_owners(), *hidden.METHODS} - {"Logout"}):
            owner = types.method(name).owner
            soap = await host.root.call(name, MoRef(owner, "x"))
            path = f"/sdk/vim25/9.1.0.0/{owner}/x/{name}"
            reply = await host.root.send("POST", path, b"{}", extra)
            told = json.loads(reply.text).get("_typeName") if reply.status == 500 else ""
            assert (name, reply.status, told) == (name, soap.status, soap.fault)
            answered[str(told)] = answered.get(str(told), 0) + 1
        assert answered.keys() <= {"MethodNotFound", "NotSupported", "ManagedObjectNotFound"}
        assert min(answered.values()) > 10

    play(story)


@pytest.mark.parametrize("method", ["PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"])
def test_there_are_two_verbs(method: str, play: Callable[..., None]) -> None:
    async def story(host) -> None:
        reply = await host.root.send(method, "/sdk/vim25/9.1.0.0/HostSystem/ha-host/name")
        assert (reply.status, reply.headers["allow"]) == (405, "GET, POST")

    play(story)


def test_a_cookie_opens_nothing_here(play: Callable[..., None]) -> None:
    async def story(host) -> None:
        headers = {"cookie": f'vmware_soap_session="{host.root.cookie}"'}
        path = f"{BASE}/VirtualMachine/1/PowerOnVM_Task"
        reply = await host.anonymous.send("POST", path, b"{}", headers)
        assert json.loads(reply.text)["_typeName"] == "NotAuthenticated"

    play(story)


def test_nobody_without_a_session_gets_anything_but_the_door(play: Callable[..., None]) -> None:
    async def story(host) -> None:
        for name in types.method_owners():
            if name in {"Login", "RetrieveServiceContent", "ChangePassword"}:
                continue
            if name.startswith("Retrieve") and name in {
                "RetrieveProperties",
                "RetrievePropertiesEx",
            }:
                continue
            owner = types.method(name).owner
            reply = await post(host.anonymous, f"{owner}/none/{name}", {})
            assert json.loads(reply.text)["_typeName"] == "NotAuthenticated", name
        for path in ("VirtualMachine/1/name", "VirtualMachine/99/name", "SessionManager/x/message"):
            reply = await get(host.anonymous, path)
            assert json.loads(reply.text)["_typeName"] == "NotAuthenticated"

    play(story)


def test_every_property_of_every_object_is_json(play: Callable[..., None]) -> None:
    async def story(host) -> None:
        session = await login(host)
        world = World()
        async for reply in FakeKernel().facts():
            if reply is not None:
                world.fold(reply)
                if world.lockdowns:
                    break
        for ref in catalog.objects(world):
            for declared in types.managed_type(ref.type).properties:
                got = await get(host.anonymous, f"{ref.type}/{ref.value}/{declared.name}", session)
                assert got.status in {200, 204} or "InvalidProperty" in got.text, (ref, got.text)

    play(story)


@pytest.mark.parametrize(
    "path",
    [
        "VirtualMachine/1",
        "VirtualMachine/1/name/more",
        "NoSuchType/1/name",
        "VirtualMachine//name",
        "VirtualMachine/1/no.such",
        "VirtualMachine/1/config.name",
        "VirtualMachine/%00/name",
        "VirtualMachine/" + "9" * 500 + "/name",
    ],
)
def test_a_wrong_path_is_a_fault(play: Callable[..., None], path: str) -> None:
    async def story(host) -> None:
        reply = await get(host.anonymous, path, await login(host))
        assert reply.status == 500
        assert json.loads(reply.text)["_typeName"] in {"InvalidRequest", "InvalidProperty"}

    play(story)


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b"{",
        b'{"a": NaN}',
        b'{"name": 1}',
        b'{"name": "x", "name": "y"}',
        b'{"name": "x", "other": 1}',
        b'{"name": ' + b"9" * 5000 + b"}",
        b"[" * 5000,
        b'{"name": "a\\u0007b"}',
        b'{"name": "a\\u0000b"}',
        b'{"name": "a\\ud800b"}',
        b'{"name":' + b'{"a":' * 200 + b"1" + b"}" * 201,
        b'{"name": "\xff"}',
        b"{}",
    ],
)
def test_a_wrong_body_is_a_fault(play: Callable[..., None], body: bytes) -> None:
    async def story(host) -> None:
        headers = {SESSION_HEADER: await login(host)}
        path = f"{BASE}/AuthorizationManager/ha-authmgr/AddAuthorizationRole"
        reply = await host.anonymous.send("POST", path, body, headers)
        assert reply.status == 500
        assert json.loads(reply.text)["_typeName"] == "InvalidRequest"

    play(story)


TEXT = "".join(sorted({*string.printable} - {"\v", "\f"}))
ANY = TypeRef(Kind.ANY, "anyType")
plain_values = st.one_of(
    st.booleans().map(lambda v: Typed("boolean", v)),
    st.integers(-(2**31), 2**31 - 1).map(lambda v: Typed("int", v)),
    st.integers(-(2**63), 2**63 - 1).map(lambda v: Typed("long", v)),
    st.text(TEXT).map(lambda v: Typed("string", v)),
    st.binary().map(lambda v: Typed("base64Binary", v)),
    st.lists(st.text(TEXT)).map(lambda v: Typed("string", tuple(v), array=True)),
)


@given(plain_values)
def test_what_is_written_is_read_again(value: Typed) -> None:
    written = json.loads(json.dumps(jsoncodec.plain(value, ANY, NEWEST)))
    method = types.method("UpdateOptions")
    body = {"changedValue": [{"key": "a", "value": written}]}
    [read] = jsoncodec.arguments(method, body)["changedValue"]
    assert isinstance(read, Obj)
    assert read.get("value") == value


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.just("_typeName"), inner),
    max_leaves=20,
)


@given(st.sampled_from([served.name for served in REGISTRY]), st.dictionaries(st.text(), JSON))
def test_any_json_is_arguments_or_our_error(name: str, body: dict[str, object]) -> None:
    method = types.method(name)
    for parameter in method.parameters:
        body.setdefault(parameter.name, body.get("x"))
    try:
        jsoncodec.arguments(method, jsoncodec.parse(json.dumps(body).encode()))
    except FormatError:
        return
