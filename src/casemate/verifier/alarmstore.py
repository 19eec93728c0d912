"""Standing alarms, and which verifiers live, in the store."""

from __future__ import annotations

from casemate.machine.fleet import Alarm
from casemate.verifier.database import Transaction

VERIFIER_DEAD = "verifier-dead"
"""Code of the alarm about a verifier; its name follows after a colon."""

DEAD_SECONDS = 15.0
"""A verifier not heard for so long is taken for dead."""

STOPPED_SECONDS = 86_400.0
"""How long one that stopped as it should is remembered."""


def raise_alarm(step: Transaction, host: str, code: str, sentence: str) -> bool:
    """Raise an alarm unless the same one stands already; tells whether it is new."""
    return bool(
        step.run(
            "INSERT INTO alarm (time, host, code, sentence, cleared) VALUES (?,?,?,?,0)"
            " ON CONFLICT (host, code) WHERE cleared=0 DO NOTHING",
            step.now(),
            host,
            code,
            sentence,
        )
    )


def clear_alarms(step: Transaction, host: str, code: str | None = None) -> int:
    """End the standing alarms of a host."""
    sql = "UPDATE alarm SET cleared=? WHERE host=? AND cleared=0"
    if code is None:
        return step.run(sql, step.now(), host)
    return step.run(sql + " AND code=?", step.now(), host, code)


def alarms(step: Transaction, *, standing: bool = True, limit: int = 200) -> list[Alarm]:
    """Return alarms, newest first."""
    where = "WHERE cleared=0 " if standing else ""
    sql = f"SELECT * FROM alarm {where}ORDER BY number DESC LIMIT ?"  # noqa: S608 (own names)
    return [Alarm(*row) for row in step.all(sql, limit)]


def beat(step: Transaction, worker: str, started: float) -> None:
    """Note that a verifier lives."""
    now = step.now()
    if not step.run("UPDATE worker SET seen=?, stopped=0 WHERE name=?", now, worker):
        step.run("INSERT INTO worker VALUES (?,?,?,0)", worker, now, started)


def stop_worker(step: Transaction, worker: str) -> None:
    """Note that a verifier stopped as it should."""
    step.run("UPDATE worker SET stopped=1 WHERE name=?", worker)


def forget_worker(step: Transaction, worker: str) -> bool:
    """Forget a verifier and end the alarm about it; False where there is none."""
    clear_alarms(step, "", f"{VERIFIER_DEAD}:{worker}")
    return bool(step.run("DELETE FROM worker WHERE name=?", worker))


def forget_stopped(step: Transaction) -> None:
    """Forget verifiers that stopped as they should, a day later."""
    step.run("DELETE FROM worker WHERE stopped=1 AND seen<?", step.now() - STOPPED_SECONDS)


def count_alarms(step: Transaction) -> int:
    """Return how many alarms stand."""
    row = step.one("SELECT count(*) FROM alarm WHERE cleared=0")
    return int(row[0]) if row else 0


def silent_workers(step: Transaction, seconds: float) -> list[str]:
    """Return verifiers that have not been heard for a time, and did not stop."""
    rows = step.all(
        "SELECT name FROM worker WHERE stopped=0 AND seen<? ORDER BY name", step.now() - seconds
    )
    return [str(row[0]) for row in rows]


def workers(step: Transaction) -> list[tuple[str, float, bool]]:
    """Return (name, last seen, stopped) of all verifiers."""
    rows = step.all("SELECT name, seen, stopped FROM worker ORDER BY name")
    return [(str(name), float(seen), bool(stopped)) for name, seen, stopped in rows]
