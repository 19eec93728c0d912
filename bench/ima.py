"""How fast an IMA list is appraised: read, template hashes, replay, boot aggregate, policy.

``python bench/ima.py [records]``. Keylime's own ``process_measurement_list`` is timed in the same
process over the same records where it is importable (put its directory on PYTHONPATH).
"""

from __future__ import annotations

import hashlib
import struct
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime

from casemate.formats.ima import ImaEntry, parse_ima, write_ima
from casemate.formats.imafields import split_fields
from casemate.formats.imareplay import replay_ima
from casemate.policy.ima import RuntimePolicy, appraise_ima

ROUNDS = 15
AIM_RATIO = 5.0


def records(count: int) -> tuple[ImaEntry, ...]:
    """Return ``count`` ima-ng records as a booting host has them."""
    pcrs = b"".join(bytes((pcr,)) * 32 for pcr in range(10))
    files = [(b"boot_aggregate", hashlib.sha256(pcrs).digest())]
    for number in range(count - 1):
        path = f"/usr/lib/x86_64-linux-gnu/package-{number % 97}/module-{number}.so.{number % 7}"
        files.append((path.encode(), hashlib.sha256(path.encode()).digest()))
    entries = []
    for path, digest in files:
        fields = (b"sha256:\0" + digest, path + b"\0")
        data = b"".join(struct.pack("<I", len(field)) + field for field in fields)
        entries.append(ImaEntry(10, hashlib.sha1(data).digest(), "ima-ng", data))
    return tuple(entries)


def best(*runs: Callable[[], object]) -> list[float]:
    """Return the best processor time of each, in milliseconds; they take turns."""
    times: list[list[float]] = [[] for _ in runs]
    for _ in range(ROUNDS):
        for run, found in zip(runs, times, strict=True):
            begin = time.process_time()
            run()
            found.append(time.process_time() - begin)
    return [min(found) * 1000 for found in times]


def ours(entries: tuple[ImaEntry, ...]) -> Callable[[], object]:
    """Return the whole appraisal of a binary list."""
    raw = write_ima(entries)
    digests: dict[bytes, frozenset[bytes]] = {}
    for entry in entries:
        digest, path = split_fields(entry.data)
        digests[path[:-1]] = frozenset({digest})
    pcrs = {"sha256": {pcr: bytes((pcr,)) * 32 for pcr in range(10)}}
    pcrs["sha256"][10] = replay_ima(entries, "sha256")
    policy = RuntimePolicy(1, digests)
    now = datetime(2026, 1, 1, tzinfo=UTC)

    def run() -> None:
        result = appraise_ima(parse_ima(raw), pcrs, policy, now)
        assert not result.findings, result.findings[0]
        assert result.appraised == len(entries)

    return run


def keylime(entries: tuple[ImaEntry, ...]) -> Callable[[], object] | None:
    """Return Keylime's appraisal of the same records as text, its own form; None: not here."""
    try:
        from keylime.common.algorithms import Hash  # noqa: PLC0415
        from keylime.ima import ima  # noqa: PLC0415
    except ImportError:
        return None
    lines, digests = [], {}
    for entry in entries:
        digest, path = split_fields(entry.data)
        text = digest[8:].hex()
        lines.append(f"10 {entry.template_hash.hex()} ima-ng sha256:{text} {path[:-1].decode()}")
        digests[path[:-1].decode()] = [text]
    policy = {
        **ima.EMPTY_RUNTIME_POLICY,
        "digests": digests,
        "excludes": ["boot_aggregate"],
    }
    pcr = replay_ima(entries, "sha256").hex()

    def run() -> None:
        _, failure = ima.process_measurement_list(
            None, lines, policy, pcrval=pcr, hash_alg=Hash.SHA256
        )
        assert not failure, failure.events

    return run


def main() -> None:
    """Print both times and their ratio."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 5000
    entries = records(count)
    peer = keylime(entries)
    own, *other = best(*filter(None, (ours(entries), peer)))
    print(f"casemate  {own / count * 1000:8.2f} ms per 1,000 records")
    if not other:
        print("keylime   skipped: not importable")
        return
    print(f"keylime   {other[0] / count * 1000:8.2f} ms per 1,000 records")
    print(f"ratio     {other[0] / own:8.1f} (aim: {AIM_RATIO:.0f})")


if __name__ == "__main__":
    main()
