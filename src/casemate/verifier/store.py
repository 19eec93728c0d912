"""What a verifier remembers of hosts: rows in, rows out, inside the caller's transaction.

Every change of a host's state is guarded by what the caller has read (the lease, or the record),
so of two verifiers that judge at once one finds that it came second.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields

from casemate.errors import ArgumentError, NotAuthenticatedError, NotFoundError
from casemate.machine.fleet import Alarm, FleetHost, Proposal, Round, StoredPolicy, StoredReference
from casemate.policy.statemachine import State
from casemate.verifier.database import Database, Transaction
from casemate.verifier.packing import Packer, unpack

LEASE_BATCH = 50
"""Hosts leased at once: one transaction for as many rounds as run side by side."""

ROUNDS_WITH_EVIDENCE = 20
"""Rounds of a host whose evidence is kept whole, besides those where its state changed."""

ROUNDS_KEPT = 500
"""Rounds of a host that are kept at all; changes of state are kept for ever."""

_HOST = ", ".join(field.name for field in fields(FleetHost))
_ROUND = ", ".join(field.name for field in fields(Round))
_REFERENCE = ", ".join(field.name for field in fields(StoredReference))
_DUE = (
    "SELECT name FROM host WHERE mode='pull' AND next_due<=? AND state NOT IN (?,?)"
    " AND (lease_owner='' OR lease_until<?) ORDER BY next_due LIMIT ?"
)
_MARKS = ", ".join("?" for _ in fields(FleetHost))


def add_host(step: Transaction, host: FleetHost) -> None:
    """Add a host. Raises ArgumentError where the name or the TPM is enrolled already."""
    row = step.one("SELECT name FROM host WHERE name=? OR (ek=? AND ek<>'')", host.name, host.ek)
    if row is not None:
        raise ArgumentError(
            f"{row[0]} is enrolled already" + ("" if row[0] == host.name else " with the same TPM"),
            argument="name",
            component=host.name,
        )
    step.run(f"INSERT INTO host ({_HOST}) VALUES ({_MARKS})", *astuple(host))  # noqa: S608 (own names)


def find_host(step: Transaction, name: str) -> FleetHost | None:
    """Return a host, or None."""
    row = step.one(f"SELECT {_HOST} FROM host WHERE name=?", name)  # noqa: S608 (own names)
    return FleetHost(*row) if row else None


def get_host(step: Transaction, name: str) -> FleetHost:
    """Return a host. Raises NotFoundError."""
    host = find_host(step, name)
    if host is None:
        raise NotFoundError(
            f"no host is enrolled as {name!r}",
            component=name,
            remedy="List the hosts: casemate verifier list.",
        )
    return host


@dataclass(frozen=True, slots=True)
class Current:
    """A host, the version of all rules in force, and which policy it has: one question for all.

    ``policy`` is None where the host has none; ``own`` are its own values as JSON.
    """

    host: FleetHost
    version: int
    policy: str | None
    own: str


_CURRENT = (
    f"SELECT {', '.join(f'host.{field.name}' for field in fields(FleetHost))}, value.value,"  # noqa: S608 (own names)
    " assignment.policy, assignment.own FROM host"
    " LEFT JOIN value ON value.name='policy' LEFT JOIN assignment ON assignment.host=host.name"
)


def get_host_of_token(step: Transaction, digest: str) -> Current:
    """Return the host whose agent knows a secret. Raises NotAuthenticatedError."""
    found = _current(step, "token", digest) if digest else None
    if found is None:
        raise NotAuthenticatedError("No agent has this secret.")
    return found


def current(step: Transaction, name: str) -> Current | None:
    """Return a host as it is now, None where there is none."""
    return _current(step, "name", name)


def _current(step: Transaction, column: str, key: str) -> Current | None:
    row = step.one(f"{_CURRENT} WHERE host.{column}=?", key)
    if row is None:
        return None
    *values, version, policy, own = row
    return Current(FleetHost(*values), int(version or 0), policy, str(own or ""))


def all_hosts(step: Transaction) -> list[FleetHost]:
    """Return all hosts by name."""
    return [FleetHost(*row) for row in step.all(f"SELECT {_HOST} FROM host ORDER BY name")]  # noqa: S608 (own names)


def overdue(step: Transaction) -> list[FleetHost]:
    """Return trusted hosts without a good round for three cadences."""
    rows = step.all(
        f"SELECT {_HOST} FROM host WHERE state=? AND last_good+3*cadence<?",  # noqa: S608 (own names)
        State.TRUSTED.value,
        step.now(),
    )
    return [FleetHost(*row) for row in rows]


def update_host(step: Transaction, before: FleetHost, after: FleetHost) -> bool:
    """Write a host back; False where it has changed, or gone, since ``before`` was read.

    Its TPM is pinned: it changes only from none, or through ``swap_tpm``.
    """
    ek = after.ek if not before.ek else before.ek
    return bool(
        step.run(
            "UPDATE host SET address=?, state=?, record=?, ek=?, issuer=?, identity=?, profile=?,"
            " cadence=?, next_due=?, lease_owner=?, lease_until=?, last_tried=?, last_good=?,"
            " policy=?, reference=?, verdict=?, counters=?, token=?"
            " WHERE name=? AND record=? AND ek=? AND lease_owner=?",
            after.address,
            after.state,
            after.record,
            ek,
            after.issuer,
            after.identity,
            after.profile,
            after.cadence,
            after.next_due,
            after.lease_owner,
            after.lease_until,
            after.last_tried,
            after.last_good,
            after.policy,
            after.reference,
            after.verdict,
            after.counters,
            after.token,
            before.name,
            before.record,
            before.ek,
            before.lease_owner,
        )
    )


def swap_tpm(step: Transaction, host: str, proposal: Proposal, record: str, state: str) -> None:
    """Pin another TPM: what two people have agreed on."""
    step.run(
        "UPDATE host SET ek=?, issuer=?, identity=?, record=?, state=?, counters='', next_due=0,"
        " lease_owner='' WHERE name=?",
        proposal.ek,
        proposal.issuer,
        proposal.identity,
        record,
        state,
        host,
    )
    step.run("DELETE FROM proposal WHERE host=?", host)


def remove_host(step: Transaction, name: str) -> None:
    """Forget a host; its rounds and the audit log stay."""
    for table in ("proposal", "nonce", "assignment"):
        step.run(f"DELETE FROM {table} WHERE host=?", name)  # noqa: S608 (own names)
    step.run("DELETE FROM host WHERE name=?", name)


def put_proposal(step: Transaction, proposal: Proposal) -> None:
    """Note a proposed TPM; the newest proposal counts."""
    step.run("DELETE FROM proposal WHERE host=?", proposal.host)
    step.run("INSERT INTO proposal VALUES (?,?,?,?,?,?)", *astuple(proposal))


def find_proposal(step: Transaction, host: str) -> Proposal | None:
    """Return the TPM proposed for a host."""
    row = step.one("SELECT * FROM proposal WHERE host=?", host)
    return Proposal(*row) if row else None


def lease_due(
    database: Database, owner: str, seconds: float, limit: int = LEASE_BATCH
) -> list[FleetHost]:
    """Lease hosts that are due and that no living verifier holds, longest due first."""
    with database.transaction() as step:
        now = step.now()
        rows = step.all(
            _DUE + database.skip_locked,
            now,
            State.PENDING.value,
            State.REMOVED.value,
            now,
            limit,
        )
        names = [row[0] for row in rows]
        step.many(
            "UPDATE host SET lease_owner=?, lease_until=? WHERE name=?",
            [(owner, now + seconds, name) for name in names],
        )
        return [get_host(step, name) for name in names]


def leased(step: Transaction, owner: str) -> list[str]:
    """Return the names of the hosts that a verifier holds."""
    rows = step.all("SELECT name FROM host WHERE lease_owner=?", owner)
    return [str(row[0]) for row in rows]


def release(step: Transaction, owner: str, name: str | None = None) -> None:
    """Give back all leases of a verifier that stops, or one of them."""
    sql = "UPDATE host SET lease_owner='', lease_until=0 WHERE lease_owner=?"
    if name is None:
        step.run(sql, owner)
    else:
        step.run(sql + " AND name=?", owner, name)


def due_now(step: Transaction, name: str | None = None) -> int:
    """Make one host, or all, due at once."""
    if name is None:
        return step.run("UPDATE host SET next_due=0")
    return step.run("UPDATE host SET next_due=0 WHERE name=?", name)


def add_round(step: Transaction, one: Round, packer: Packer) -> None:
    """Keep a round; its number is given here."""
    step.run(
        f"INSERT INTO round ({_ROUND.removeprefix('number, ')})"  # noqa: S608 (own names)
        " VALUES (?,?,?,?,?,?,?,?,?,?)",
        one.host,
        one.time,
        one.outcome,
        one.state,
        one.reference,
        one.policy,
        one.millis,
        one.nonce,
        packer.pack(one.result),
        packer.pack(one.evidence),
    )


def rounds_of(step: Transaction, host: str, limit: int = 50) -> list[Round]:
    """Return a host's last rounds, newest first, without their evidence."""
    names = _ROUND.replace(", evidence", "").replace(", result", "")
    rows = step.all(
        f"SELECT {names} FROM round WHERE host=? ORDER BY number DESC LIMIT ?",  # noqa: S608 (own names)
        host,
        limit,
    )
    return [_round((*row, b"", b"")) for row in rows]


def latest_round(step: Transaction, host: str, number: int | None = None) -> Round | None:
    """Return a round with its evidence: the last one, or that of a number."""
    sql = f"SELECT {_ROUND} FROM round WHERE host=?"  # noqa: S608 (own names)
    row = (
        step.one(sql + " ORDER BY number DESC LIMIT 1", host)
        if number is None
        else step.one(sql + " AND number=?", host, number)
    )
    return _round(row) if row else None


def _round(row: Sequence[object]) -> Round:
    number, host, time, outcome, state, reference, policy, millis, nonce, result, evidence = row
    return Round(
        int(str(number)),
        str(host),
        float(str(time)),
        str(outcome),
        str(state),
        str(reference),
        int(str(policy)),
        float(str(millis)),
        bytes(nonce) if isinstance(nonce, bytes | memoryview) else b"",
        _unpacked(result),
        _unpacked(evidence),
    )


def _unpacked(value: object) -> bytes:
    return unpack(bytes(value)) if isinstance(value, bytes | memoryview) else b""


def thin_out(step: Transaction, host: str) -> None:
    """Keep what is worth keeping: changes of state, the last rounds, evidence of the newest."""
    for keep, action in (
        (ROUNDS_KEPT, "DELETE FROM round"),
        (ROUNDS_WITH_EVIDENCE, "UPDATE round SET result=?, evidence=?"),
    ):
        row = step.one(
            "SELECT number FROM round WHERE host=? ORDER BY number DESC LIMIT 1 OFFSET ?",
            host,
            keep,
        )
        if row is None:
            continue
        values = (b"", b"") if action.startswith("UPDATE") else ()
        step.run(f"{action} WHERE host=? AND number<=? AND outcome='good'", *values, host, row[0])


def put_reference(step: Transaction, one: StoredReference) -> None:
    """Add a reference."""
    step.run(
        f"INSERT INTO reference ({_REFERENCE}) VALUES (?,?,?,?,?,?,?,?,?)",  # noqa: S608 (own names)
        *astuple(one),
    )


def references(step: Transaction, *, whole: bool = True) -> list[StoredReference]:
    """Return all references, newest first; ``whole`` with their bodies."""
    names = _REFERENCE if whole else _REFERENCE.replace(", body", "")
    rows = step.all(f"SELECT {names} FROM reference ORDER BY serial DESC, added DESC")  # noqa: S608 (own names)
    return [
        StoredReference(*(*row, b"") if not whole else (*row[:8], bytes(row[8]))) for row in rows
    ]


def limit_reference(step: Transaction, identifier: str, until: float | None) -> bool:
    """Set the end of a reference; False where there is none."""
    return bool(step.run("UPDATE reference SET until=? WHERE identifier=?", until, identifier))


def put_policy(step: Transaction, one: StoredPolicy) -> None:
    """Add a policy."""
    step.run("INSERT INTO policy VALUES (?,?,?,?,?,?,?,?)", *astuple(one))


def policies(step: Transaction) -> list[StoredPolicy]:
    """Return all policies without their bodies, newest first."""
    rows = step.all(
        "SELECT identifier, kind, name, version, signer, added, added_by FROM policy"
        " ORDER BY name, kind, version DESC"
    )
    return [StoredPolicy(*row) for row in rows]


def policy_body(step: Transaction, kind: str, name: str) -> bytes:
    """Return the text in force, empty where there is none."""
    row = step.one(
        "SELECT body FROM policy WHERE kind=? AND name=? ORDER BY version DESC LIMIT 1", kind, name
    )
    return bytes(row[0]) if row else b""


def assign(step: Transaction, host: str, policy: str) -> None:
    """Assign a policy; what was approved as the host's own is for another one, and is forgotten."""
    step.run("DELETE FROM assignment WHERE host=?", host)
    if policy:
        step.run("INSERT INTO assignment VALUES (?,?,'','')", host, policy)


def approve_values(step: Transaction, host: str, own: str, who: str) -> None:
    """Note a host's own values as JSON."""
    step.run("UPDATE assignment SET own=?, approved_by=? WHERE host=?", own, who, host)


def assignment(step: Transaction, host: str) -> tuple[str, str] | None:
    """Return the name of a host's policy and its own values, None where it has no policy."""
    row = step.one("SELECT policy, own FROM assignment WHERE host=?", host)
    return (str(row[0]), str(row[1])) if row else None


def assignments(step: Transaction) -> dict[str, str]:
    """Return host → name of its policy."""
    rows = step.all("SELECT host, policy FROM assignment ORDER BY host")
    return {str(host): str(policy) for host, policy in rows}


def raise_alarm(step: Transaction, host: str, code: str, sentence: str) -> bool:
    """Raise an alarm unless the same one stands already; tells whether it is new."""
    if step.one("SELECT 1 FROM alarm WHERE host=? AND code=? AND cleared=0", host, code):
        return False
    step.run(
        "INSERT INTO alarm (time, host, code, sentence, cleared) VALUES (?,?,?,?,0)",
        step.now(),
        host,
        code,
        sentence,
    )
    return True


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


def get_value(step: Transaction, name: str, default: str = "") -> str:
    """Return a named value."""
    row = step.one("SELECT value FROM value WHERE name=?", name)
    return str(row[0]) if row else default


def set_value(step: Transaction, name: str, value: str) -> None:
    """Set a named value."""
    if not step.run("UPDATE value SET value=? WHERE name=?", value, name):
        step.run("INSERT INTO value VALUES (?,?)", name, value)


def policy_version(step: Transaction) -> int:
    """Return the version of references and policies that is in force."""
    return int(get_value(step, "policy", "0"))


def next_policy(step: Transaction) -> int:
    """Count the version up and make every host due: each is appraised anew."""
    version = policy_version(step) + 1
    set_value(step, "policy", str(version))
    due_now(step)
    return version


def beat(step: Transaction, worker: str, started: float) -> None:
    """Note that a verifier lives."""
    now = step.now()
    if not step.run("UPDATE worker SET seen=?, stopped=0 WHERE name=?", now, worker):
        step.run("INSERT INTO worker VALUES (?,?,?,0)", worker, now, started)


def stop_worker(step: Transaction, worker: str) -> None:
    """Note that a verifier stopped as it should."""
    step.run("UPDATE worker SET stopped=1 WHERE name=?", worker)


def silent_workers(step: Transaction, seconds: float) -> list[str]:
    """Return verifiers that have not been heard for a time, and did not stop."""
    rows = step.all("SELECT name FROM worker WHERE stopped=0 AND seen<?", step.now() - seconds)
    return [str(row[0]) for row in rows]


def workers(step: Transaction) -> list[tuple[str, float, bool]]:
    """Return (name, last seen, stopped) of all verifiers."""
    rows = step.all("SELECT name, seen, stopped FROM worker ORDER BY name")
    return [(str(name), float(seen), bool(stopped)) for name, seen, stopped in rows]
