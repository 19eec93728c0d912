"""The HTTP side of the SOAP endpoint, sessions and cookies."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime

import pytest

from casemate.calls.messages import FactReply, Login
from casemate.hostd import session as sessions
from casemate.hostd.app import make_app
from casemate.hostd.session import cookie_handles
from casemate.testing.fakekernel import PASSWORD, FakeKernel
from casemate.vim25 import xmlnodes
from casemate.vim25.values import MoRef

SERVICE = MoRef("ServiceInstance", "ServiceInstance")
SESSIONS = MoRef("SessionManager", "ha-sessionmgr")
HANDLE = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("header", "handles"),
    [
        (f'vmware_soap_session="{HANDLE}"', [HANDLE]),
        (f"vmware_soap_session={HANDLE}", [HANDLE]),
        (f'vmware_soap_session="{HANDLE}"; Path=/; HttpOnly; Secure;', [HANDLE]),
        (f'vmware_soap_session="{HANDLE}"; Path=/; HttpOnly; SameSite=Strict; Secure;', [HANDLE]),
        (f'vmware_client=VMware; vmware_soap_session="{HANDLE}"', [HANDLE]),
        ("vmware_soap_session=short", []),
        (f'vmware_soap_session="{HANDLE}\'; drop"', [HANDLE]),
        ("vmware_client=VMware", []),
        (f'vmware_soap_session="{"x" * 5000}"', []),
        ("", []),
    ],
)
def test_cookies_are_read_leniently_and_values_strictly(header: str, handles: list[str]) -> None:
    assert list(cookie_handles(header)) == handles


def test_wrong_password_is_invalid_login_and_sets_no_cookie(play: Callable[..., None]) -> None:
    async def story(host) -> None:
        reply = await host.anonymous.login("root", "wrong")
        assert (reply.status, reply.fault) == (500, "InvalidLogin")
        assert "set-cookie" not in reply.headers

    play(story)


def test_the_peer_address_reaches_the_kernel_for_its_audit(play: Callable[..., None]) -> None:
    async def story(host) -> None:
        host.anonymous.peer = "203.0.113.9"
        await host.anonymous.login("root", PASSWORD)
        last = [one for one in host.kernel.asked if isinstance(one, Login)][-1]
        assert last.peer == "203.0.113.9"

    play(story)


def test_cookie_and_public_key_of_a_session_differ(play: Callable[..., None]) -> None:
    async def story(host) -> None:
        reply = await host.root.call("Fetch", SESSIONS, "<prop>sessionList</prop>")
        assert "<key>" in reply.text
        assert host.root.cookie not in reply.text

    play(story)


def test_a_login_gives_a_new_cookie_each_time_and_ends_the_old_session(
    play: Callable[..., None],
) -> None:
    async def story(host) -> None:
        old = host.root.cookie
        await host.root.login("root", PASSWORD)
        assert host.root.cookie != old
        host.anonymous.cookie = old
        reply = await host.anonymous.call("CurrentTime", SERVICE)
        assert reply.fault == "NotAuthenticated"

    play(story)


def test_after_logout_the_cookie_is_worth_nothing(play: Callable[..., None]) -> None:
    async def story(host) -> None:
        cookie = host.root.cookie
        assert (await host.root.call("Logout", SESSIONS)).status == 200
        host.root.cookie = cookie
        assert (await host.root.call("CurrentTime", SERVICE)).fault == "NotAuthenticated"

    play(story)


def test_a_session_survives_a_restart_of_hostd(play: Callable[..., None]) -> None:
    kernel = FakeKernel()
    kept: list[str] = []

    async def before(host) -> None:
        kept.append(host.root.cookie)

    async def after(host) -> None:
        host.anonymous.cookie = kept[0]
        assert (await host.anonymous.call("CurrentTime", SERVICE)).status == 200

    play(before, kernel)
    play(after, kernel)


def test_cookie_is_secure_http_only(play: Callable[..., None]) -> None:
    async def story(host) -> None:
        reply = await host.anonymous.login("root", PASSWORD)
        assert re.fullmatch(
            r'vmware_soap_session="[0-9a-f]{64}"; Path=/; HttpOnly; SameSite=Strict; Secure;',
            reply.headers["set-cookie"],
        )

    play(story)


def test_a_body_over_the_limit_is_answered_and_the_connection_closed(
    play: Callable[..., None],
) -> None:
    async def story(host) -> None:
        reply = await host.anonymous.post(b" " * (xmlnodes.SIZE_LIMIT + 1))
        assert (reply.status, reply.fault) == (500, "InvalidRequest")
        assert reply.headers["connection"] == "close"

    play(story)


@pytest.mark.parametrize(
    "body", [b"", b"x", b"<!DOCTYPE x><x/>", b"\xff" * 100, b"<a>" * 100], ids=repr
)
def test_what_is_no_request_is_an_invalid_request(body: bytes, play: Callable[..., None]) -> None:
    async def story(host) -> None:
        reply = await host.anonymous.post(body)
        assert (reply.status, reply.fault) == (500, "InvalidRequest")

    play(story)


def test_unknown_method_is_named_before_anyone_is_asked_to_log_in(
    play: Callable[..., None],
) -> None:
    async def story(host) -> None:
        reply = await host.anonymous.call("EraseEverything", SERVICE)
        assert reply.fault == "InvalidRequest"
        assert "Unable to resolve WSDL method name EraseEverything" in reply.text

    play(story)


def test_big_answers_are_compressed_for_those_who_can_read_it(play: Callable[..., None]) -> None:
    async def story(host) -> None:
        spec = (
            "<specSet><propSet><type>VirtualMachine</type><all>true</all></propSet><objectSet>"
            '<obj type="VirtualMachine">1</obj></objectSet><objectSet>'
            '<obj type="VirtualMachine">2</obj></objectSet></specSet>'
        )
        collector = MoRef("PropertyCollector", "ha-property-collector")
        plain = await host.root.call("RetrieveProperties", collector, spec)
        assert "content-encoding" not in plain.headers
        host.root.extra = {"accept-encoding": "gzip, deflate"}
        packed = await host.root.call("RetrieveProperties", collector, spec)
        assert packed.headers["content-encoding"] == "gzip"
        assert int(packed.headers["content-length"]) < int(plain.headers["content-length"]) / 2

    play(story)


def test_other_paths_are_answered(play: Callable[..., None]) -> None:
    async def story(host) -> None:
        versions = await host.anonymous.send("GET", "/sdk/vimServiceVersions.xml")
        assert "<version>9.1.0.0</version>" in versions.text
        page = await host.anonymous.send("GET", "/")
        assert page.status == 200
        assert "default-src 'none'" in page.headers["content-security-policy"]
        style = await host.anonymous.send("GET", "/landing.css")
        assert style.headers["content-type"].startswith("text/css")
        assert (await host.anonymous.send("GET", "/sdk")).status == 405
        assert (await host.anonymous.send("GET", "/etc/passwd")).status == 404

    play(story)


def test_a_session_that_forgets_its_views_is_stopped_at_a_limit(play: Callable[..., None]) -> None:
    async def story(host) -> None:
        views = MoRef("ViewManager", "ViewManager")
        for _ in range(sessions.OWN_LIMIT):
            assert (await host.root.call("CreateListView", views)).status == 200
        assert (await host.root.call("CreateListView", views)).status == 500

    play(story)


def test_a_failing_handler_is_still_answered(play: Callable[..., None]) -> None:
    class Broken(FakeKernel):
        async def ask(self, request: object, kind: type) -> object:
            if type(request).__name__ == "PowerOn":
                raise ZeroDivisionError
            return await super().ask(request, kind)

    async def story(host) -> None:
        reply = await host.root.call("PowerOnVM_Task", MoRef("VirtualMachine", "1"))
        assert (reply.status, reply.fault) == (500, "SystemError")
        assert "ZeroDivision" not in reply.text

    play(story, Broken())


def test_calls_wait_for_a_kernel_that_is_still_starting(play: Callable[..., None]) -> None:
    class Slow(FakeKernel):
        async def facts(self):
            await asyncio.sleep(0.1)
            async for reply in super().facts():
                yield reply

    async def story(host) -> None:
        reply = await host.anonymous.call("RetrieveServiceContent", SERVICE)
        assert reply.status == 200

    play(story, Slow())


def test_what_goes_on_beside_the_requests_never_ends_in_silence() -> None:
    class Broken(FakeKernel):
        async def facts(self) -> AsyncIterator[FactReply | None]:
            yield None
            raise RuntimeError("no facts")

    async def story() -> None:
        told = asyncio.Event()
        app = make_app(
            Broken(), clock=lambda: datetime.now(UTC), ticks=time.monotonic, give_up=told.set
        )
        async with app.router.lifespan_context(app):
            await asyncio.wait_for(told.wait(), 60)

    asyncio.run(story())
