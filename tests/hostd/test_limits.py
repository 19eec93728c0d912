"""What strangers can make a host write has an end."""

from __future__ import annotations

import logging

from casemate.hostd.limits import Rate, Sparing


def line(text: str, *given: object) -> logging.LogRecord:
    return logging.LogRecord("hostd", logging.WARNING, "", 0, text, given, None)


def test_a_log_takes_only_so_many_lines_and_says_how_many_it_left_out() -> None:
    now = [0.0]
    written: list[str] = []

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            written.append(record.getMessage())

    handler = Kept()
    handler.addFilter(Sparing(Rate(1.0, 3.0), lambda: now[0]))
    for number in range(1000):
        handler.handle(line("bad request %d", number))
    assert written == ["bad request 0", "bad request 1", "bad request 2"]
    now[0] += 2.0
    handler.handle(line("bad request %s", "again"))
    handler.handle(line("quiet again"))
    assert written[3:] == [
        "bad request again (997 lines before were left out)",
        "quiet again",
    ]
