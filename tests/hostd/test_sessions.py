"""Cookies: who has not logged in makes little work, whatever is sent."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TypeVar

from casemate.calls.messages import Login, ResumeSession, SessionReply
from casemate.hostd.session import COOKIE, COOKIES_READ, RESUMES, Sessions
from casemate.machine.governance import OptionFact
from casemate.policy.options import API_COMPATIBILITY
from casemate.testing.fakekernel import PASSWORD, READER, USER, FakeKernel
from casemate.vim25.values import MoRef

R = TypeVar("R")
PEER = "192.0.2.1"


def cookies(*handles: str) -> str:
    return "; ".join(f'{COOKIE}="{one}"' for one in handles)


def asked(kernel: FakeKernel) -> int:
    return sum(isinstance(one, ResumeSession) for one in kernel.asked)


def test_a_request_full_of_cookies_costs_no_more_than_a_few_questions() -> None:
    async def story() -> None:
        kernel = FakeKernel()
        sessions = Sessions(kernel, lambda: datetime.now(UTC))
        many = cookies(*(secrets.token_hex(20) for _ in range(500)))
        assert await sessions.find(many, PEER, "") is None
        assert asked(kernel) == COOKIES_READ

    asyncio.run(story())


def test_guessed_handles_of_one_peer_are_bounded_and_hinder_no_other() -> None:
    async def story() -> None:
        kernel = FakeKernel()
        sessions = Sessions(kernel, lambda: datetime(2026, 1, 1, tzinfo=UTC))
        for _ in range(10_000):
            await sessions.find(cookies(secrets.token_hex(20)), PEER, "")
        assert asked(kernel) == RESUMES.burst
        login = await kernel.ask(Login(USER, PASSWORD, PEER), SessionReply)
        found = await sessions.find(cookies(login.handle), "192.0.2.2", "")
        assert found is not None

    asyncio.run(story())


def test_a_handle_that_the_kernel_does_not_know_is_asked_about_once() -> None:
    async def story() -> None:
        kernel = FakeKernel()
        sessions = Sessions(kernel, lambda: datetime.now(UTC))
        for _ in range(20):
            await sessions.find(cookies("f" * 40), PEER, "")
        assert asked(kernel) == 1

    asyncio.run(story())


def test_a_live_session_costs_no_question_and_an_old_cookie_before_it_one() -> None:
    async def story() -> None:
        kernel = FakeKernel()
        sessions = Sessions(kernel, lambda: datetime.now(UTC))
        login = await kernel.ask(Login(USER, PASSWORD, PEER), SessionReply)
        for _ in range(20):
            found = await sessions.find(cookies("e" * 40, login.handle), PEER, "")
            assert found is not None
        assert asked(kernel) == 2

    asyncio.run(story())


MANAGER = MoRef("SessionManager", "ha-sessionmgr")


def ticket_in(text: str) -> str:
    return re.search(r"<returnval>([0-9a-f]+)<", text)[1]


def test_a_session_is_handed_over_once_and_only_where_the_host_was_booted_so(
    play: Callable[..., None],
) -> None:
    async def story(host) -> None:
        assert (await host.reader.call("AcquireCloneTicket", MANAGER)).fault == "MethodNotFound"
        host.kernel.state(OptionFact(API_COMPATIBILITY, "TRUE"))
        for _ in range(10_000):
            given = await host.reader.call("AcquireCloneTicket", MANAGER)
            if not given.fault:
                break
            await asyncio.sleep(0.002)
        used = f"<cloneTicket>{ticket_in(given.text)}</cloneTicket>"
        made = await host.anonymous.call("CloneSession", MANAGER, used)
        assert f"<userName>{READER}</userName>" in made.text
        assert made.headers["set-cookie"]
        again = await host.anonymous.call("CloneSession", MANAGER, used)
        assert again.fault == "InvalidLogin"
        guessed = f"<cloneTicket>{'0' * 64}</cloneTicket>"
        assert (await host.root.call("CloneSession", MANAGER, guessed)).fault == "InvalidLogin"

    play(story)


def test_a_ticket_of_a_session_that_has_ended_opens_nothing(play: Callable[..., None]) -> None:
    async def story(host) -> None:
        host.kernel.state(OptionFact(API_COMPATIBILITY, "TRUE"))
        for _ in range(10_000):
            given = await host.reader.call("AcquireCloneTicket", MANAGER)
            if not given.fault:
                break
            await asyncio.sleep(0.002)
        await host.reader.call("Logout", MANAGER)
        used = f"<cloneTicket>{ticket_in(given.text)}</cloneTicket>"
        assert (await host.anonymous.call("CloneSession", MANAGER, used)).status == 500

    play(story)


def test_requests_that_come_at_once_after_a_restart_are_of_one_session() -> None:
    class Slow(FakeKernel):
        async def ask(self, request: object, kind: type[R]) -> R:
            await asyncio.sleep(0)
            return await super().ask(request, kind)

    async def story() -> None:
        kernel = Slow()
        sessions = Sessions(kernel, lambda: datetime.now(UTC))
        login = await kernel.ask(Login(USER, PASSWORD, PEER), SessionReply)
        found = await asyncio.gather(
            *(sessions.find(cookies(login.handle), PEER, "") for _ in range(5))
        )
        assert {id(one) for one in found} == {id(one) for one in sessions}

    asyncio.run(story())
