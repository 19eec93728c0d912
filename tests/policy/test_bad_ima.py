"""Bad inputs, IMA lists: entries BI-084 to BI-095 of the catalogue, a test each."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from casemate.errors import (
    ArgumentError,
)
from casemate.formats.algorithms import digest
from casemate.formats.ima import ImaEntry, ImaList, parse_ima, write_ima
from casemate.formats.imafields import measurement
from casemate.formats.imareplay import ImaState
from casemate.policy.ima import RuntimePolicy, TrustedKey, appraise_ima, check_progress, next_offset
from casemate.policy.language import parse_policy
from casemate.policy.paths import compile_paths
from casemate.testing.expect import codes, refused
from casemate.testing.imalists import aggregate, boot_pcrs, quoted, record, violation

T0 = datetime(2026, 6, 1, 12, 0, tzinfo=UTC)

KNOWN = {b"/bin/ls": frozenset({b"sha256:\0" + digest("sha256", b"content")})}
RUNTIME = RuntimePolicy(1, KNOWN)
FIRST = aggregate(boot_pcrs()["sha256"])


def ima(
    *entries: ImaEntry,
    policy: RuntimePolicy = RUNTIME,
    seen: Sequence[ImaEntry] | None = None,
    first: ImaEntry = FIRST,
    padded: bool = False,
) -> tuple[set[str], set[str], int]:
    listed = (first, *entries)
    values = quoted(listed if seen is None else seen, padded=padded)
    result = appraise_ima(ImaList("sha1", listed), values, policy, T0)
    return codes(result.findings), codes(result.warnings), result.pending


def test_bi_084_template_hash_that_is_not_of_the_data() -> None:
    wrong = record(b"/bin/ls")._replace(template_hash=b"\1" * 20)
    assert ima(wrong)[0] == {"ima-template"}
    values = quoted((FIRST, record(b"/bin/ls")))
    listed = ImaList("sha1", (FIRST, wrong))
    assert codes(appraise_ima(listed, values, RUNTIME, T0).findings) == {"ima-template"}


def test_bi_085_violation() -> None:
    assert ima(violation(b"/tmp/x")) == (set(), {"ima-violation"}, 0)
    strict = replace(RUNTIME, reject_violations=True)
    assert ima(violation(b"/tmp/x"), policy=strict)[0] == {"ima-violation"}


def test_bi_086_list_longer_than_the_quote() -> None:
    entries = (record(b"/bin/ls"), record(b"/bin/ls", b"evil"))
    assert ima(*entries, seen=(FIRST, entries[0])) == (set(), set(), 1)


def test_bi_087_list_that_never_reaches_the_quote() -> None:
    assert ima(record(b"/bin/ls"), seen=(FIRST, record(b"/bin/nc")))[0] == {"ima-pcr"}


def test_bi_088_quote_that_never_catches_up() -> None:
    assert codes(check_progress([3, 5, 8])) == {"no-progress"}
    assert check_progress([3, 0, 8]) == ()


@pytest.mark.parametrize(
    "path", [b"/a\nb", b"/a b", b"/a\0b", b"/\xff\xfe\xfd", b"/" + b"x" * 4095]
)
def test_bi_089_odd_paths(path: bytes) -> None:
    (entry,) = parse_ima(write_ima((record(path),))).entries
    assert measurement(entry).path == path


def test_bi_090_lying_lengths_and_unknown_templates() -> None:
    head = struct.pack("<I", 10) + bytes(20)
    for raw in (head + b"\xff" * 4, head + b"\6\0\0\0ima-ng\xff\xff\xff\xff", head + b"\6\0\0\0im"):
        assert refused(lambda data=raw: parse_ima(data)) == "malformed"
    for template, extra in (("ima-modsig", [b""] * 3), ("ima-buf", [b""]), ("evm-sig", [b""] * 7)):
        assert ima(record(b"/bin/ls", template=template, extra=extra))[0] == set()
    assert ima(record(b"/bin/ls", template="of-tomorrow"))[0] == {"ima-template-unknown"}


def test_bi_091_boot_aggregate_of_another_boot_or_an_old_kernel() -> None:
    other = aggregate({pcr: bytes((99,)) * 32 for pcr in range(10)})
    assert ima(first=other)[0] == {"boot-aggregate"}
    old = aggregate(boot_pcrs()["sha256"], kernel="old")
    assert ima(first=old)[0] == {"boot-aggregate"}
    assert ima(first=old, policy=replace(RUNTIME, old_kernel=True))[0] == set()


def test_bi_092_list_shorter_than_before_after_a_reboot() -> None:
    state = ImaState(500, {"sha256": bytes(32)})
    assert next_offset(state, 20, rebooted=True) == 0
    assert next_offset(state, 20, rebooted=False) == 0
    assert next_offset(state, 600, rebooted=False) == 500


def test_bi_093_patterns_that_climb_or_run_away() -> None:
    for pattern in ("/tmp/../usr/**", "^(a+)+$", "/**", "(a|aa)+"):
        with pytest.raises(ArgumentError):
            compile_paths([pattern])
        line = f'policy "p" version 1\npcr 0 per-host\nruntime exclude "{pattern}"\n'
        assert refused(lambda text=line: parse_policy(text.encode())).startswith("policy-")
    excluded = replace(RUNTIME, excludes=compile_paths(["/tmp/**"]))
    assert ima(record(b"/tmp/../bin/nc"), policy=excluded)[0] == {"ima-unknown-file"}


def test_bi_094_padded_sha1_only_for_old_kernels() -> None:
    assert ima(record(b"/bin/ls"), padded=True)[0] == {"ima-pcr"}
    old = replace(RUNTIME, old_kernel=True)
    assert ima(record(b"/bin/ls"), padded=True, policy=old)[0] == set()


def test_bi_095_signed_by_a_stranger() -> None:
    signature = b"\3\2\4" + b"\0\0\0\1" + b"\0\x08" + b"x" * 8
    key = TrustedKey("ours", ec.generate_private_key(ec.SECP256R1()).public_key())
    entry = record(b"/bin/nc", template="ima-sig", extra=[signature])
    assert ima(entry, policy=replace(RUNTIME, keys=(key,)))[0] == {"ima-signature"}
