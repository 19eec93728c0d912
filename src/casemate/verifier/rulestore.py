"""What is in force, in the store: references, policies, who has which; and named values."""

from __future__ import annotations

from dataclasses import astuple, fields

from casemate.machine.fleet import StoredPolicy, StoredReference
from casemate.verifier import store
from casemate.verifier.database import Transaction

_REFERENCE = ", ".join(field.name for field in fields(StoredReference))


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
    store.due_now(step)
    return version
