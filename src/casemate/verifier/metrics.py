"""Metrics in Prometheus' text format (version 0.0.4)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from casemate.policy.statemachine import State
from casemate.verifier import alarmstore, store
from casemate.verifier.database import Transaction

ALIVE = 60.0
"""A verifier heard within so many seconds counts as alive."""


def render(step: Transaction, counts: Mapping[str, int]) -> str:
    """Return all metrics; ``counts`` are this verifier's rounds by outcome."""
    now = step.now()
    hosts = store.all_hosts(step)
    states = Counter(host.state for host in hosts)
    ages = [now - host.last_good for host in hosts if host.last_good]
    late = [now - host.next_due for host in hosts if host.next_due and host.mode == "pull"]
    workers = alarmstore.workers(step)
    alive = [name for name, seen, stopped in workers if not stopped and now - seen < ALIVE]
    lines = [
        "# HELP casemate_hosts Hosts by state.",
        "# TYPE casemate_hosts gauge",
        *(f'casemate_hosts{{state="{state.value}"}} {states[state.value]}' for state in State),
        "# HELP casemate_rounds_total Rounds of this verifier by outcome.",
        "# TYPE casemate_rounds_total counter",
        *(f'casemate_rounds_total{{outcome="{name}"}} {n}' for name, n in sorted(counts.items())),
        "# HELP casemate_oldest_good_seconds Age of the oldest last good round.",
        "# TYPE casemate_oldest_good_seconds gauge",
        f"casemate_oldest_good_seconds {max(ages, default=0):.3f}",
        "# HELP casemate_late_seconds How long the most overdue host has waited.",
        "# TYPE casemate_late_seconds gauge",
        f"casemate_late_seconds {max(0, *late, 0):.3f}",
        "# HELP casemate_alarms Standing alarms.",
        "# TYPE casemate_alarms gauge",
        f"casemate_alarms {alarmstore.count_alarms(step)}",
        "# HELP casemate_verifiers Verifiers heard within a minute.",
        "# TYPE casemate_verifiers gauge",
        f"casemate_verifiers {len(alive)}",
    ]
    return "\n".join(lines) + "\n"
