"""What a verifier remembers of hosts: rows in, rows out, inside the caller's transaction.

Every change of a host's state is guarded by what the caller has read (the lease, or the record),
so of two verifiers that judge at once one finds that it came second.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields

from casemate.errors import ArgumentError, NotAuthenticatedError, NotFoundError
from casemate.machine.fleet import FleetHost, Proposal
from casemate.policy.statemachine import State
from casemate.verifier.database import Columns, Database, Row, Transaction

LEASE_BATCH = 50
"""Hosts leased at once: one transaction for as many rounds as run side by side."""

_HOST = ", ".join(field.name for field in fields(FleetHost))
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


def currents(step: Transaction, column: str, keys: Sequence[str]) -> list[Current]:
    """Return hosts as they are now, by their ``name`` or ``token``: those that there are."""
    rows = step.given(
        (("key", "TEXT"),),
        [(key,) for key in keys],
        f"{_CURRENT} JOIN given ON host.{column}=given.key",
    )
    return [_made(row) for row in rows]


def _current(step: Transaction, column: str, key: str) -> Current | None:
    row = step.one(f"{_CURRENT} WHERE host.{column}=?", key)
    return _made(row) if row else None


def _made(row: Row) -> Current:
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


_JUDGED: Columns = (
    ("name", "TEXT"), ("seen", "TEXT"), ("tpm", "TEXT"), ("owner", "TEXT"), ("version", "TEXT"),
    ("state", "TEXT"), ("record", "TEXT"), ("identity", "TEXT"), ("next_due", "REAL"),
    ("last_tried", "REAL"), ("last_good", "REAL"), ("policy", "INTEGER"), ("reference", "TEXT"),
    ("verdict", "TEXT"), ("counters", "TEXT"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Change:
    """A host that was judged: as it was read under a version of the rules, and as it shall be."""

    before: FleetHost
    version: int
    after: FleetHost


def write_judged(step: Transaction, changes: Sequence[Change]) -> set[str]:
    """Write hosts back that were judged; returns those that were still as they had been read."""
    rows = step.given(
        _JUDGED,
        [
            (
                one.before.name, one.before.record, one.before.ek, one.before.lease_owner,
                str(one.version), one.after.state, one.after.record,
                "" if one.after.identity == one.before.identity else one.after.identity,
                one.after.next_due, one.after.last_tried, one.after.last_good, one.after.policy,
                one.after.reference, one.after.verdict, one.after.counters,
            )
            for one in sorted(changes, key=lambda one: one.before.name)
        ],
        "UPDATE host SET state=given.state, record=given.record,"
        " identity=CASE given.identity WHEN '' THEN host.identity ELSE given.identity END,"
        " next_due=given.next_due, last_tried=given.last_tried, last_good=given.last_good,"
        " policy=given.policy, reference=given.reference, verdict=given.verdict,"
        " counters=given.counters FROM given WHERE host.name=given.name"
        " AND host.record=given.seen AND host.ek=given.tpm AND host.lease_owner=given.owner"
        " AND COALESCE((SELECT value FROM value WHERE name='policy'), '0')=given.version"
        " RETURNING host.name",
    )  # fmt: skip
    return {str(row[0]) for row in rows}


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


def put_off(step: Transaction, owner: str, name: str, seconds: float) -> None:
    """Give back the lease of a host, which is due again in so many seconds."""
    step.run(
        "UPDATE host SET lease_owner='', lease_until=0, next_due=? WHERE lease_owner=? AND name=?",
        step.now() + seconds,
        owner,
        name,
    )


def due_now(step: Transaction, name: str | None = None) -> int:
    """Make one host, or all, due at once; those that push come by themselves."""
    if name is None:  # rows of pushing hosts are written many at a time: no lock waits for another
        return step.run("UPDATE host SET next_due=0 WHERE mode='pull'")
    return step.run("UPDATE host SET next_due=0 WHERE name=?", name)
