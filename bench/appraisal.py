"""How fast quotes and firmware logs are appraised, against Keylime's own functions.

``python bench/appraisal.py`` reads the public logs and quote from CASEMATE_CORPUS. Ours: the quote
check; and for each log parsing, typed rules, replay of all banks and comparison with the quoted
values. Keylime (where importable; it runs tpm2_eventlog): ``checkquote``; ``bootlog_parse``, which
it does at every check, without any policy (it needs libefivar). The ratio of a log is ours to its
parsing alone; logs that it cannot read have none. What is counted is processor time, the children's
too: whoever else uses the machine hardly counts.
"""

from __future__ import annotations

import base64
import json
import os
import resource
import shutil
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from casemate.formats import tpm
from casemate.formats.eventlog import parse, replay
from casemate.policy.firmware import appraise_firmware, compare_quoted

CORPUS = Path(
    os.environ.get(
        "CASEMATE_CORPUS", Path(__file__).resolve().parent.parent.parent / "shared" / "data"
    )
)
SECONDS = 0.5
MIN_ROUNDS = 10
AIM_RATIO = 20.0


def spent() -> float:
    """Return the seconds of processor time that this process and its children have used."""
    used = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used)


def best(*runs: Callable[[], object]) -> list[float]:
    """Return the least processor time of each, in milliseconds; they take turns."""
    times: list[list[float]] = [[] for _ in runs]
    end = time.perf_counter() + SECONDS
    while len(times[0]) < MIN_ROUNDS or time.perf_counter() < end:
        for run, found in zip(runs, times, strict=True):
            begin = spent()
            run()
            found.append(spent() - begin)
    return [min(found) * 1000 for found in times]


def quotes() -> list[float]:
    """Time a quote check: key, signature, nonce, selection and digest of the values.

    Ours keeps the parsed public key of a host between rounds; Keylime reads it from PEM each time.
    """
    place = CORPUS / "quotes" / "keylime"
    ak, quote, signature, blob, nonce, pem = (
        (place / name).read_bytes()
        for name in (
            "ak.pub",
            "quote.out",
            "quotesig.out",
            "quotepcr.out",
            "rand.out",
            "akpub.pem",
        )
    )

    def ours() -> None:
        public = tpm.parse_public(tpm.untpm2b(ak))
        parsed = tpm.parse_signature(signature)
        tpm.verify_quote_signature(public, quote, parsed)
        attest = tpm.parse_attest(quote)
        tpm.check_nonce(attest, nonce)
        tpm.check_pcr_values(attest.quoted(), tpm.parse_pcrs_blob(blob), parsed.hash)

    try:
        from keylime.tpm import tpm_util  # noqa: PLC0415
    except ImportError:
        return best(ours)
    return best(ours, lambda: tpm_util.checkquote(pem, nonce, signature, quote, blob, "sha256"))


def keylime_parser() -> Callable[[str], Any] | None:
    """Return Keylime's parser of measured-boot logs, None where it cannot run."""
    if shutil.which("tpm2_eventlog") is None:
        return None
    try:
        from keylime.mba.elparsing import tpm2_tools_elparser  # noqa: PLC0415
    except ImportError:
        return None
    return lambda text: tpm2_tools_elparser.bootlog_parse(text, "sha256")


def readable(parser: Callable[[str], Any], text: str) -> bool:
    """Tell whether Keylime reads a log: it gives up on some, and breaks on others."""
    try:
        return bool(parser(text)[0])
    except Exception:  # noqa: BLE001  # whatever it is, the log has no time to compare with
        return False


def appraise(data: bytes) -> None:
    """Appraise one log whose quoted values are those that it leads to."""
    log = parse(data)
    values = replay(log)
    assert not appraise_firmware(log).findings
    assert not compare_quoted(log, values, values, tuple(range(24)))


def main() -> None:
    """Print the times and ratios."""
    own, *other = quotes()
    print(f"quote check        casemate {own:8.3f} ms", end="")
    print(f"  keylime {other[0]:8.3f} ms  ratio {other[0] / own:6.1f}" if other else "")
    parser = keylime_parser()
    if parser is None:
        print("keylime's log parser skipped: keylime or tpm2_eventlog is not here")
    ratios = []
    for entry in json.loads((CORPUS / "evlogs" / "INDEX.json").read_text()):
        if entry["events"] < 20:
            continue
        data = (CORPUS / "evlogs" / entry["file"]).read_bytes()
        if entry["file"].endswith(".b64"):
            data = base64.b64decode(data)
        text = base64.b64encode(data).decode()
        reads = parser is not None and readable(parser, text)
        runs = [partial(appraise, data)] + ([partial(parser, text)] if reads else [])
        own, *other = best(*runs)
        line = f"{entry['file'][:44]:44} {entry['events']:4} events  casemate {own:7.2f} ms"
        if other:
            ratios.append(other[0] / own)
            line += f"  keylime {other[0]:7.1f} ms  ratio {other[0] / own:6.1f}"
        elif parser is not None:
            line += "  keylime cannot read it"
        print(line)
    if ratios:
        low, middle, high = min(ratios), statistics.median(ratios), max(ratios)
        print(f"ratios {low:.1f} to {high:.1f}, median {middle:.1f} (aim: {AIM_RATIO:.0f})")
    print(f"load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
