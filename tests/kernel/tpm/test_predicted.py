"""A whole boot on a real TPM: what was predicted is what it quotes, and the verifier says so."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from casemate.formats.eventlog import parse, replay, write_event
from casemate.formats.tpm import ENTROPY_SIZE
from casemate.kernel.home import Home
from casemate.kernel.tpm import swtpm
from casemate.kernel.tpm.control import Control
from casemate.kernel.tpm.device import Tpm
from casemate.policy.appraise import Evidence, Verdict, appraise
from casemate.policy.measure import (
    BANKS,
    LOCALITY_LAUNCH,
    BootMeasurer,
    Component,
    Launch,
    Option,
    boot_steps,
)
from casemate.policy.tpmidentity import (
    Claim,
    TpmIdentity,
    check_activation,
    check_identity,
    load_ek_roots,
    make_challenge,
)
from casemate.testing.smallhost import SmallImage

pytestmark = [pytest.mark.host, pytest.mark.usefixtures("root_only")]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    place = Home(tmp_path / "h")
    place.create()
    swtpm.manufacture(place)
    return place


@pytest.fixture
def tpm(home: Home) -> Iterator[Tpm]:
    running = swtpm.start(home)
    try:
        with Control(running.control) as control:
            control.launch(SmallImage().content("b.b00"))
        with Tpm.embedded(running.path) as device:
            yield device
    finally:
        running.stop()


def boot(tpm: Tpm, image: SmallImage) -> bytes:
    measurer = BootMeasurer(BANKS)
    bank = image.bank()
    signers = {vib_id: certificate for vib_id, (_, certificate) in bank.signers.items()}
    log = measurer.header()
    for step in boot_steps(bank.cfg, bank.db, bank.anchors, signers):
        named = isinstance(step, Launch | Component | Option)
        digests = bank.digests[step.file_name] if named else None
        for one in measurer.measure(step, digests):
            if one.locality != LOCALITY_LAUNCH:
                digests_of = {str(name): value for name, value in one.event.digests}
                tpm.extend(one.event.pcr, digests_of, one.locality)
            log += write_event(one.event)
    return log


def prove(home: Home, tpm: Tpm) -> TpmIdentity:
    roots = load_ek_roots(path.read_bytes() for path in (home.trust / "ek").glob("*.pem"))
    endorsement = tpm.ek()
    claim = Claim(endorsement.certificate, endorsement.public, tpm.ak())
    identity = check_identity(claim, roots, datetime.now(UTC))
    secret = secrets.token_bytes(32)
    challenge = make_challenge(identity, secret, secrets.token_bytes(ENTROPY_SIZE))
    check_activation(tpm.activate_credential(challenge.blob, challenge.encrypted_secret), secret)
    return identity


def test_predicted_values_equal_the_tpm_and_the_verdict_is_trusted(home: Home, tpm: Tpm) -> None:
    image = SmallImage()
    reference = image.reference()
    log = boot(tpm, image)
    values = tpm.read_pcrs(BANKS, reference.indexes)
    assert values == reference.pcrs
    for bank, replayed in replay(parse(log)).items():
        assert replayed.items() <= values[bank].items()
    identity = prove(home, tpm)
    nonce = secrets.token_bytes(32)
    quotes = (tpm.quote(nonce, BANKS, reference.indexes),)
    evidence = Evidence(quotes, values, log)
    appraisal = appraise(evidence, reference, identity, nonce)
    assert (appraisal.verdict, appraisal.findings) == (Verdict.TRUSTED, ())
    stale = appraise(evidence, reference, identity, secrets.token_bytes(32))
    assert [finding.code for finding in stale.findings] == ["stale-nonce"]


def test_an_older_vib_is_named_from_the_real_quote(home: Home, tpm: Tpm) -> None:
    log = boot(tpm, SmallImage(versions={"qemu": "1.0-1"}))
    reference = SmallImage().reference()
    nonce = secrets.token_bytes(32)
    quotes = (tpm.quote(nonce, BANKS, reference.indexes),)
    evidence = Evidence(quotes, tpm.read_pcrs(BANKS, reference.indexes), log)
    (finding,) = appraise(evidence, reference, prove(home, tpm), nonce).findings
    assert (finding.code, finding.component) == (
        "component-changed",
        "qemu.v00 (Casemate_bootbank_qemu_2.0-1)",
    )


def test_software_cannot_play_the_expected_boot_without_the_launch(home: Home) -> None:
    running = swtpm.start(home)
    try:
        with Tpm.embedded(running.path) as tpm:
            reference = SmallImage().reference()
            nonce = secrets.token_bytes(32)
            quotes = (tpm.quote(nonce, BANKS, reference.indexes),)
            values = tpm.read_pcrs(BANKS, reference.indexes)
            log = BootMeasurer(BANKS).header()
            log += b"".join(write_event(one.event) for one in reference.events)
            evidence = Evidence(quotes, values, log)
            appraisal = appraise(evidence, reference, prove(home, tpm), nonce)
    finally:
        running.stop()
    assert appraisal.verdict is Verdict.UNTRUSTED
    assert "drtm-missing" in {finding.code for finding in appraisal.findings}
