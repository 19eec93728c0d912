"""Tickets for one request: whoever asks for very many loses its own."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from casemate.hostd.tickets import LIMIT, OF_ONE, SECONDS, Tickets

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def issue(tickets: Tickets, handle: str, count: int = 1) -> list[str]:
    return [tickets.issue(handle, "GET", "/folder/a", "dsName=x") for _ in range(count)]


def redeem(tickets: Tickets, name: str) -> str | None:
    return tickets.redeem(name, "GET", "/folder/a", "dsName=x")


def test_one_session_cannot_use_up_the_tickets_of_others() -> None:
    tickets = Tickets(lambda: NOW)
    (honest,) = issue(tickets, "honest")
    mine = issue(tickets, "greedy", LIMIT * 2)
    assert redeem(tickets, honest) == "honest"
    assert [one for one in mine if redeem(tickets, one)] == mine[-OF_ONE:]


def test_when_all_are_taken_whoever_holds_most_gives_way() -> None:
    tickets = Tickets(lambda: NOW)
    (honest,) = issue(tickets, "honest")
    for number in range(LIMIT // OF_ONE + 3):
        issue(tickets, f"greedy{number}", OF_ONE)
    assert len(tickets._tickets) == LIMIT
    assert redeem(tickets, honest) == "honest"


def test_a_ticket_is_good_for_its_request_for_a_while() -> None:
    now = [NOW]
    tickets = Tickets(lambda: now[0])
    late, early = issue(tickets, "one", 2)
    assert tickets.redeem(early, "PUT", "/folder/a", "dsName=x") is None
    assert tickets.redeem(early, "GET", "/folder/b", "dsName=x") is None
    assert redeem(tickets, early) == "one"
    assert redeem(tickets, early) is None
    now[0] += timedelta(seconds=SECONDS + 1)
    assert redeem(tickets, late) is None
