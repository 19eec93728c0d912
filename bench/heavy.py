"""What long IMA lists cost the light rounds beside them: judged in a thread, or in a process.

``python bench/heavy.py [entries]``. Beside light appraisals, lists of that many entries are judged
whole one after the other, as when a policy changed; then what going on from an earlier round takes,
and what it takes to hand a policy to a process.
"""

from __future__ import annotations

import multiprocessing
import pickle
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

from ima import records

from casemate.formats.ima import write_ima
from casemate.formats.imafields import split_fields
from casemate.formats.imareplay import replay_ima
from casemate.policy.appraise import appraise
from casemate.policy.ima import RuntimePolicy
from casemate.policy.imaseen import Pcrs, appraise_growing
from casemate.policy.tpmidentity import check_identity
from casemate.testing.pki import NOW
from casemate.testing.smallhost import SmallHost, SmallImage, ek_maker

SECONDS = 4.0
MORE = 100
NONCE = b"n" * 32
TODAY = datetime(2026, 1, 1, tzinfo=UTC)

_kept: list[RuntimePolicy] = []


def keep(policy: bytes) -> None:
    """Take a policy over, in a process of the pool."""
    _kept.append(pickle.loads(policy))


def remote(raw: bytes, pcrs: Pcrs) -> None:
    """Judge a list, in a process of the pool."""
    assert not appraise_growing(raw, pcrs, _kept[0], "policy", TODAY)[0].findings


def resident() -> int:
    """Return how many MiB of memory this process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) >> 8


def best(run: Callable[[], object], times: int = 5) -> float:
    """Return the best time in milliseconds."""
    found = []
    for _ in range(times):
        begin = time.perf_counter()
        run()
        found.append(time.perf_counter() - begin)
    return min(found) * 1000


def light() -> Callable[[], object]:
    """Return the appraisal of a host without an IMA list."""
    host, reference = SmallHost(), SmallImage().reference()
    identity = check_identity(host.claim(), [ek_maker().certificate], NOW)
    evidence = host.evidence(NONCE)
    return lambda: appraise(evidence, reference, identity, NONCE)


def beside(heavy: Callable[[], object] | None, run: Callable[[], object]) -> float:
    """Return how often ``run`` runs in a second while another thread repeats ``heavy``."""
    over = threading.Event()

    def repeat() -> None:
        while heavy is not None and not over.is_set():
            heavy()

    thread = threading.Thread(target=repeat)
    thread.start()
    count, end = 0, time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        run()
        count += 1
    over.set()
    thread.join()
    return count / SECONDS


def main() -> None:
    """Print it all."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 50_000
    entries = records(count)
    digests = {}
    for entry in entries:
        digest, path = split_fields(entry.data)
        digests[path[:-1]] = frozenset({digest})
    policy, raw = RuntimePolicy(1, digests), write_ima(entries)
    pcrs = {"sha256": {pcr: bytes((pcr,)) * 32 for pcr in range(10)}}
    before = {"sha256": {**pcrs["sha256"], 10: replay_ima(entries[:-MORE], "sha256")}}
    pcrs["sha256"][10] = replay_ima(entries, "sha256")
    first = write_ima(entries[:-MORE])
    _, seen = appraise_growing(first, before, policy, "policy", TODAY)
    assert seen is not None

    def whole() -> None:
        appraise_growing(raw, pcrs, policy, "policy", TODAY)

    def more() -> None:
        appraise_growing(raw, pcrs, policy, "policy", TODAY, seen)

    pickled, run = pickle.dumps(policy), light()
    print(
        f"whole list    {best(whole):8.1f} ms for {count} entries; {MORE} more {best(more):.1f} ms"
    )
    context = multiprocessing.get_context("forkserver")
    with ProcessPoolExecutor(1, context, keep, (pickled,)) as pool:
        away = best(lambda: pool.submit(remote, raw, pcrs).result())
        print(f"in a process  {away:8.1f} ms, which has {pool.submit(resident).result()} MiB")
        handed = best(lambda: pickle.loads(pickle.dumps(policy)))
        print(f"its policy    {handed:8.1f} ms to hand over, {len(pickled) >> 20} MiB")
        alone = beside(None, run)
        threads = beside(whole, run)
        processes = beside(lambda: pool.submit(remote, raw, pcrs).result(), run)
    print(f"light rounds  {alone:8.0f} a second alone")
    print(f"              {threads:8.0f} beside a thread")
    print(f"              {processes:8.0f} beside a process")


if __name__ == "__main__":
    main()
