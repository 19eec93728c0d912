"""Cookies: who has not logged in makes little work, whatever is sent."""

from __future__ import annotations

import asyncio
import secrets
from datetime import UTC, datetime

from casemate.calls.messages import Login, ResumeSession, SessionReply
from casemate.hostd.session import COOKIE, COOKIES_READ, RESUMES, Sessions
from casemate.testing.fakekernel import PASSWORD, USER, FakeKernel

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
        for _ in range(200):
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
