"""``casemate hardening``: the audit of a whole host in one screen, and its security domains.

Exit status: 0 every required rule is kept, 1 one is not (or was not looked at), 2 not decided.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from itertools import groupby
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from casemate.calls.hardening import (
    LAUNCHES,
    HardeningAudit,
    HardeningReply,
    SecpolicyList,
    SecpolicyReply,
    as_json,
    is_bad,
)
from casemate.cli.calls import Calls
from casemate.cli.terminal import PlainConsole, styled
from casemate.cli.trust import add_common
from casemate.formats.text import escape
from casemate.image.hardening import programs
from casemate.image.profile import read_bank
from casemate.image.reference import read_trust, read_waivers
from casemate.kernel import platform
from casemate.kernel.boot import running
from casemate.kernel.home import Home, find_home
from casemate.machine.domains import DOMAINS
from casemate.policy import platform as rules
from casemate.policy.hardening import Weight
from casemate.policy.hardeningreport import (
    Area,
    EntropyRow,
    Outcome,
    Row,
    component_rows,
    score,
    skipped,
)
from casemate.policy.levels import Level
from casemate.policy.payloads import check_file

AUDIT_SECONDS: Final = 600.0
"""For the whole audit; 64 launches of four programs take some ten seconds."""
BAR: Final = 6
"""Characters of a bar that is full."""
_LABELS: Final = {Outcome.NOT_APPLICABLE: "n/a"}
MOST_BITS: Final = 32
"""What Linux can randomise at most on x86-64 (vm.mmap_rnd_bits)."""
_COLOURS: Final = {
    Outcome.PASSED: "green",
    Outcome.FAILED: "red",
    Outcome.WAIVED: "yellow",
    Outcome.SKIPPED: "red",
    Outcome.NOT_APPLICABLE: "dim",
}


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``hardening`` with its commands."""
    parser = commands.add_parser("hardening", help="audit memory hardening; list security domains")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    audit = actions.add_parser("audit", help="judge components, processes, entropy, platform")
    audit.add_argument(
        "--launches",
        type=int,
        default=LAUNCHES,
        metavar="N",
        help=f"launches of each program to measure entropy (default: {LAUNCHES}; 0: do not)",
    )
    change = audit.add_mutually_exclusive_group()
    change.add_argument("--apply", action="store_true", help="set the baseline of sysctls first")
    change.add_argument("--undo", action="store_true", help="put back what --apply changed, first")
    audit.set_defaults(func=_audit)
    listing = actions.add_parser("domains", help="list the security domains and their processes")
    listing.set_defaults(func=_domains)
    for action in (audit, listing):
        add_common(action)


def _audit(options: argparse.Namespace) -> int:
    home = find_home(options.home)
    record = home.state / "sysctls.json"
    changed: dict[str, Any] = {}
    if options.apply:
        changed = {path: list(pair) for path, pair in platform.apply(record).items()}
    elif options.undo:
        changed = {path: [None, value] for path, value in platform.undo(record).items()}
    report = _ask(home, options.launches) if running.find(home) else _on_files(home)
    status = int(any(is_bad(row) for row in report.rows) or bool(report.violations))
    if options.json:
        print(json.dumps(as_json(report) | ({"changed": changed} if changed else {})))
    else:
        _draw(PlainConsole(), report, changed)
    return status


def _ask(home: Home, launches: int) -> HardeningReply:
    with Calls(home.calls_socket, timeout=AUDIT_SECONDS) as calls:
        return calls.ask(HardeningAudit("", launches), HardeningReply)


def _on_files(home: Home) -> HardeningReply:
    """Judge what can be judged of a host that is down."""
    down, remedy = "The host is down.", "Start it with casemate up, then audit it again."
    rows = (
        *_components(home),
        skipped(Area.PROCESSES, down, remedy),
        skipped(Area.ENTROPY, down, remedy),
        *rules.judge(platform.read_texts()),
    )
    return HardeningReply(rows, (), score(rows), ())


def _components(home: Home) -> Iterator[Row]:
    bank = next((place for place in home.banks if (place / "boot.cfg").exists()), None)
    if bank is None:
        yield skipped(Area.COMPONENTS, "There is no image.", "Build one: casemate image build.")
        return
    _, db = read_bank(bank)
    store = read_trust(home.trust)
    waivers = read_waivers(home.trust, store, datetime.now(UTC))
    for name, (vib, _) in db.owners().items():
        descriptor = vib.descriptor
        for path, content in programs(name, (bank / name).read_bytes()):
            report = check_file(path, content, Level(descriptor.acceptance_level), waivers)
            if report is not None:
                yield from component_rows(report, descriptor.name)


def _draw(console: Console, report: HardeningReply, changed: dict[str, Any]) -> None:
    for path, (before, now) in changed.items():
        was = "" if before is None else f" (was {before})"
        console.print(f"set {path.removeprefix('/proc/sys/')} = {now}{was}")
    _draw_areas(console, report)
    _draw_processes(console, [row for row in report.rows if row.area is Area.PROCESSES])
    _draw_entropy(console, report.entropy)
    _draw_findings(console, report)
    console.print(
        styled(
            "Score ",
            (str(report.score), "bold"),
            " of 100 (what was not looked at counts as failed)",
        )
    )


def _draw_findings(console: Console, report: HardeningReply) -> None:
    """Say what is not as it should be, worst first, and what to do once for all that it helps."""
    told = [
        *(_told(row) for row in report.rows if is_bad(row)),
        *(
            ("violation", f"{code} {component}", reason, remedy)
            for code, component, reason, remedy in report.violations
        ),
        *(
            _told(row)
            for row in report.rows
            if row.area is Area.PLATFORM and row.outcome is Outcome.FAILED and not is_bad(row)
        ),
    ]
    if not told:
        return
    table = _table("Weight", "Rule", "Why, and → what to do")
    for (weight, remedy), group in groupby(told, key=lambda one: (one[0], one[3])):
        for _, what, reason, _ in group:
            colour = "yellow" if weight == Weight.ADVISORY.value else "red"
            table.add_row(Text(weight, colour), Text(escape(what)), Text(escape(reason)))
        if remedy:
            table.add_row("", "", Text(f"→ {escape(remedy)}", "cyan"))
    console.print(table)


def _told(row: Row) -> tuple[str, str, str, str]:
    what = row.rule if row.area is Area.PLATFORM else f"{row.rule} {row.subject}"
    return row.weight.value, what, row.reason, row.remedy


def _draw_areas(console: Console, report: HardeningReply) -> None:
    titles = (_LABELS.get(outcome, outcome.value) for outcome in Outcome)
    table = _table("Area", "things", *titles)
    broken: dict[Weight, Counter[str]] = {weight: Counter() for weight in Weight}
    for area in Area:
        rows = [row for row in report.rows if row.area is area]
        counts = Counter(row.outcome for row in rows)
        table.add_row(
            area.value,
            str(len({row.subject for row in rows})),
            *(
                Text(str(counts[outcome]), _COLOURS[outcome] if counts[outcome] else "dim")
                for outcome in Outcome
            ),
        )
        if area is Area.COMPONENTS:
            for row in rows:
                if row.outcome in {Outcome.FAILED, Outcome.WAIVED}:
                    broken[row.weight][row.rule] += 1
    console.print(table)
    for weight, rules_broken in broken.items():
        if rules_broken:
            told = ", ".join(f"{rule} {count}" for rule, count in rules_broken.items())
            console.print(Text(f"Components that break {weight.value} rules: {told}"))


def _draw_processes(console: Console, rows: list[Row]) -> None:
    table = _table("Process", "Domain", "Rules kept", "Broken")
    for subject in dict.fromkeys(row.subject for row in rows):
        own = [row for row in rows if row.subject == subject]
        broken = [row.rule for row in own if row.outcome is not Outcome.PASSED]
        kept = f"{len(own) - len(broken)} of {len(own)}"
        table.add_row(
            Text(escape(subject)), own[0].group, kept, Text(", ".join(broken) or "-", "red")
        )
    console.print(table)


def _draw_entropy(console: Console, rows: tuple[EntropyRow, ...]) -> None:
    if not rows:
        return
    wanted = {row.region: row.wanted for row in rows}
    measured = {(row.process, row.region): row for row in rows}
    launches = min(row.samples for row in rows)
    table = _table(f"{launches} launches", *wanted)
    table.add_row("bits wanted", *(Text(str(bits).rjust(BAR + 3)) for bits in wanted.values()))
    for process in dict.fromkeys(row.process for row in rows):
        cells = (_bar(measured.get((process, region))) for region in wanted)
        table.add_row(Text(escape(process)), *cells)
    console.print(table)


def _bar(row: EntropyRow | None) -> Text:
    if row is None:
        return Text("-", "dim")
    colour = "green" if row.bits >= row.wanted else "red"
    full = min(row.bits * BAR // MOST_BITS, BAR)
    bar = Text("█" * full, colour).append("░" * (BAR - full), "dim")
    return bar.append(f" {row.bits}", colour)


def domain_rows(home: Home) -> list[dict[str, Any]]:
    """Return the security domains, with their processes where the host runs.

    Raises:
        HostError: the kernel is there and does not answer.
    """
    if running.find(home):
        with Calls(home.calls_socket) as calls:
            return [asdict(row) for row in calls.ask(SecpolicyList(""), SecpolicyReply).domains]
    return [
        {
            "name": domain.name,
            "enforcement": domain.enforcement.value,
            "about": domain.about,
            "walls": sorted(wall.value for wall in domain.walls),
            "processes": [],
        }
        for domain in DOMAINS
    ]


def _domains(options: argparse.Namespace) -> int:
    rows = domain_rows(find_home(options.home))
    if options.json:
        print(json.dumps({"domains": rows}))
        return 0
    table = _table("Domain Name", "Enforcement Level", "About", "Walls", "Processes")
    for row in rows:
        present = ", ".join(f"{name} ({pid})" for name, pid in row["processes"])
        walls = str(len(row["walls"]))
        table.add_row(row["name"], row["enforcement"], row["about"], walls, present)
    PlainConsole().print(table)
    return 0


def _table(*titles: str) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in titles:
        table.add_column(title, overflow="fold")
    return table
