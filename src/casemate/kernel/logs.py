"""The host's own logs, read line by line for those who may; the audit log is one of them."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from casemate.calls.admin import LogReply, ReadLog
from casemate.errors import NotFoundError
from casemate.kernel.accounts import Session
from casemate.kernel.auditlog import AuditEntry
from casemate.kernel.store import Store

LOGS = ("hostd", "init", "kernel")
AUDIT = "audit"

READ_LIMIT = 16 << 20
"""Bytes of a log that are looked at: its end, when it is longer."""

LOOK_SECONDS = 10.0
"""Between looks at the lengths of the logs; at ``READ_LIMIT`` one is turned."""

COUNT_LIMIT = 1000
LINE_LIMIT = 2000
"""Lines of one answer, and characters of one line."""

DOUBTED = " [does not fit the chain: it was changed, or others before it were taken out]"
"""What is said of the first such entry among those that are read."""

CUT = " [others after it were taken out: the last was number {}]"
"""What is said of the last entry where the end of the log is gone."""


_log = logging.getLogger(__name__)


class Logs:
    """Reads logs. ``place`` is the directory of the log files."""

    def __init__(self, store: Store, place: Path) -> None:
        self._store = store
        self._place = place

    def handlers(self) -> Mapping[type, Callable[..., Awaitable[object]]]:
        """Return the handler of each request."""
        return {ReadLog: self._read}

    async def run(self) -> None:
        """Keep the files of the logs bounded, for ever."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            for name in LOGS:
                try:
                    await asyncio.to_thread(_turn, self._place / f"{name}.log")
                except OSError as error:
                    _log.warning("the log of %s cannot be turned: %s", name, error.strerror)

    async def _read(self, request: ReadLog, _: Session) -> LogReply:
        count = max(0, min(request.count, COUNT_LIMIT))
        start = max(request.start, 1)
        if request.log == AUDIT:
            log = self._store.audit
            entries, broken = log.entries(start, count), log.broken(start, count)
            # What is older was taken out.
            start = entries[0].number if entries else start
            doubted = next((e for e in entries if broken is not None and e.number >= broken), None)
            told = [_line(e) + (DOUBTED if e is doubted else "") for e in entries]
            if broken is not None and doubted is None:
                told[-1:] = ["".join((*told[-1:], CUT.format(log.head.number)))]
            return LogReply(start, log.size(), tuple(told))
        if request.log not in LOGS:
            raise NotFoundError(f"there is no log {request.log!r:.60}", component=request.log[:40])
        lines = await asyncio.to_thread(_lines, self._place / f"{request.log}.log")
        shown = tuple(line[:LINE_LIMIT] for line in lines[start - 1 : start - 1 + count])
        return LogReply(start, len(lines), shown)


def _turn(path: Path) -> None:
    """Keep what a log has as ``.1``, and empty it, once it is too long; its writer goes on."""
    if path.is_symlink() or not path.exists() or path.stat().st_size <= READ_LIMIT:
        return
    older = path.with_name(f"{path.name}.1")
    older.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    with path.open("r+b") as source, os.fdopen(os.open(older, flags, 0o644), "wb") as target:
        source.seek(-READ_LIMIT, os.SEEK_END)
        target.write(source.read(READ_LIMIT))
        source.truncate(0)


def _lines(path: Path) -> list[str]:
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(0, size - READ_LIMIT))
            return file.read(READ_LIMIT).decode("utf-8", "replace").splitlines()
    except FileNotFoundError:
        return []


def _line(entry: AuditEntry) -> str:
    when = datetime.fromtimestamp(entry.time, UTC).isoformat(timespec="milliseconds")
    about = f" {entry.object}" if entry.object else ""
    why = f" ({entry.why})" if entry.why else ""
    return f"{when} {entry.number} {entry.user or '-'} {entry.action}{about}: {entry.outcome}{why}"
