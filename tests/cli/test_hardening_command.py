"""The audit in a terminal: one screen, every shortcoming with its remedy, nothing hidden."""

from __future__ import annotations

import io

from rich.console import Console

from casemate.calls.hardening import HardeningReply
from casemate.cli.hardening import _draw
from casemate.policy.entropy import WANTED
from casemate.policy.hardening import Weight
from casemate.policy.hardeningreport import Area, EntropyRow, Outcome, Row

PROGRAMS = ("kernel", "hostd", "qemu", "swtpm")


def screen(report: HardeningReply, width: int = 120) -> list[str]:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    _draw(console, report, {})
    return console.file.getvalue().splitlines()


def rows() -> tuple[Row, ...]:
    good = tuple(
        Row(Area.COMPONENTS, f"/usr/lib/{n}.so", "base", "pie", Weight.REQUIRED, Outcome.PASSED)
        for n in range(500)
    )
    weak = Row(
        *(Area.COMPONENTS, "/opt/weak[red]", "other", "pie", Weight.REQUIRED, Outcome.FAILED),
        *("It is linked to a fixed address.", "Compile with -fPIE."),
    )
    settings = tuple(
        Row(
            *(Area.PLATFORM, "sysctl", "sysctl", f"kernel.s{n}", Weight.ADVISORY, Outcome.FAILED),
            *(f"It is {n}.", "Run casemate hardening audit --apply as root."),
        )
        for n in range(8)
    )
    return (*good, weak, *settings)


def entropy() -> tuple[EntropyRow, ...]:
    return tuple(
        EntropyRow(program, region, 12 if region == "heap" else wanted, wanted, 64, 64)
        for program in PROGRAMS
        for region, wanted in WANTED.items()
    )


def test_a_whole_host_is_one_screen_and_each_remedy_is_said_once():
    violation = ("process-wx", "VM 1", "Writable code at 0x1000.", "End the VM.")
    report = HardeningReply(rows(), entropy(), 71, (violation,))
    assert max(map(len, screen(report, 80))) <= 80
    assert len(screen(report, 80)) <= 45
    lines = screen(report)
    text = "\n".join(lines)
    assert len(lines) <= 40
    for told in ("pie /opt/weak[red]", "It is linked to a fixed address.", "→ Compile with -fPIE."):
        assert told in text
    for told in ("violation", "process-wx VM 1", "Writable code at 0x1000.", "→ End the VM."):
        assert told in text
    assert all(f"kernel.s{n}" in text for n in range(8))
    assert text.count("--apply") == 1
    assert "Components that break required rules: pie 1" in text
    assert lines[-1].startswith("Score 71 of 100")
    assert "heap" in text
    assert text.count("██░░░░ 12") == len(PROGRAMS)


def test_what_was_not_looked_at_is_said_to_be_missing():
    skipped = Row(
        *(Area.ENTROPY, "all", "", "all", Weight.REQUIRED, Outcome.SKIPPED),
        *("No launches were asked for.", "Use --launches 64."),
    )
    text = "\n".join(screen(HardeningReply((skipped,), (), 0, ())))
    assert "No launches were asked for." in text
    assert "→ Use --launches 64." in text
