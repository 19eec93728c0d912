"""The embedded TPM, for real: manufacture, launch, measure, identify, quote, activate."""

from __future__ import annotations

import hashlib
import os
import secrets
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from tests.forks import forked

from casemate.errors import AppraisalError, SignatureError, TpmError
from casemate.formats.eventlog import parse, replay, write_event
from casemate.formats.tpm import (
    ENTROPY_SIZE,
    check_attestation_key,
    check_nonce,
    check_pcr_values,
    make_credential,
    parse_attest,
    parse_public,
    parse_signature,
    verify_quote_signature,
)
from casemate.kernel.home import TPM_UID, Home
from casemate.kernel.tpm import swtpm
from casemate.kernel.tpm.control import Control
from casemate.kernel.tpm.device import Tpm
from casemate.policy.measure import DRTM_PCRS, STATIC_PCRS, BootMeasurer, measured_digests

pytestmark = [pytest.mark.host, pytest.mark.usefixtures("root_only")]

BANKS = ("sha256", "sha384")
PCRS = (*STATIC_PCRS, *DRTM_PCRS)
ALL_ONES = {"sha256": b"\xff" * 32, "sha384": b"\xff" * 48}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    place = Home(tmp_path_factory.mktemp("h"))
    place.create()
    swtpm.manufacture(place)
    return place


@pytest.fixture
def running(home: Home) -> Iterator[swtpm.Swtpm]:
    process = swtpm.start(home)
    yield process
    process.stop()


@pytest.fixture
def tpm(running: swtpm.Swtpm) -> Iterator[Tpm]:
    with Tpm.embedded(running.path) as device:
        yield device


def launch(running: swtpm.Swtpm, code: bytes) -> None:
    with Control(running.control) as control:
        control.launch(code)


def test_process_has_its_own_uid_and_nothing_is_written_outside_the_home(
    home: Home, running: swtpm.Swtpm
) -> None:
    status = Path(f"/proc/{running.pid}/status").read_text()
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert fields["Uid"].split() == [str(TPM_UID)] * 4
    assert int(fields["CapEff"], 16) == int(fields["CapBnd"], 16) == 0
    assert fields["NoNewPrivs"] == "1"
    assert fields["Seccomp"] == "2"
    assert not list(Path("/var/lib/swtpm-localca").glob("*"))
    assert (home.tpm / "ca" / "signkey.pem").stat().st_uid == 0
    assert (home.tpm / "ca").stat().st_mode & 0o077 == 0


def test_ek_certificate_chains_to_the_published_roots_and_is_the_ek(home: Home, tpm: Tpm) -> None:
    endorsement = tpm.ek()
    certificate = x509.load_der_x509_certificate(endorsement.certificate)
    roots = [
        x509.load_pem_x509_certificate(path.read_bytes())
        for path in sorted((home.trust / "ek").glob("*.pem"))
    ]
    issuer = next(c for c in roots if c.subject == certificate.issuer)
    root = next(c for c in roots if c.subject == issuer.issuer)
    certificate.verify_directly_issued_by(issuer)
    issuer.verify_directly_issued_by(root)
    ek = parse_public(endorsement.public).crypto_key()
    form = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    assert ek.public_bytes(*form) == certificate.public_key().public_bytes(*form)


def test_manufacturing_again_changes_nothing(home: Home, tpm: Tpm) -> None:
    before = tpm.ek()
    swtpm.manufacture(home)
    assert tpm.ek() == before


def test_without_a_launch_the_dynamic_pcrs_are_all_ones(tpm: Tpm) -> None:
    values = tpm.read_pcrs(BANKS, PCRS)
    for bank in BANKS:
        assert {values[bank][pcr] for pcr in DRTM_PCRS} == {ALL_ONES[bank]}
        assert {values[bank][pcr] for pcr in STATIC_PCRS} == {bytes(len(ALL_ONES[bank]))}


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, 300_000])
def test_launch_measures_the_code_into_pcr_17(running: swtpm.Swtpm, tpm: Tpm, size: int) -> None:
    code = os.urandom(size)
    with Control(running.control) as control:
        assert not control.established()
        control.launch(code)
        assert control.established()
    for bank, values in tpm.read_pcrs(BANKS, DRTM_PCRS).items():
        digest = hashlib.new(bank, code).digest()
        expected = hashlib.new(bank, bytes(len(digest)) + digest).digest()
        assert values[17] == expected
        assert {values[pcr] for pcr in DRTM_PCRS if pcr != 17} == {bytes(len(digest))}


def test_software_cannot_play_the_launch_or_extend_a_dynamic_pcr_from_locality_0(
    running: swtpm.Swtpm, tpm: Tpm
) -> None:
    launch(running, b"loader")
    with pytest.raises(TpmError) as caught:
        tpm.extend(18, {"sha256": bytes(32)})
    assert caught.value.code == "tpm-locality"


def test_replay_of_the_log_equals_the_tpm_in_every_bank(running: swtpm.Swtpm, tpm: Tpm) -> None:
    loader = os.urandom(5000)
    launch(running, loader)
    measurer = BootMeasurer(BANKS)
    digests = measured_digests(loader, BANKS)
    kernel = measured_digests(os.urandom(100), BANKS)
    planned = [
        *measurer.launch("b.b00", digests),
        *measurer.trust_anchor(("partner",), b"certificate"),
        *measurer.command_line("b.b00 quiet"),
        *measurer.security_option("execInstalledOnly = TRUE"),
        *measurer.signer(b"certificate"),
        *measurer.version("b.b00", "casemate-boot", "Casemate", "1.0-1"),
        *measurer.component("b.b00", digests),
        *measurer.component("k.b00", kernel),
        *measurer.component("esxupdt.v00", kernel),
        *measurer.component("qemu.v00", kernel),
        *measurer.option("useropts.gz", kernel),
        *measurer.asset_tag(b"rack 7"),
        *measurer.system_version("Casemate 1"),
        *measurer.boot_complete(),
        *measurer.runtime_component("e1000.ko", kernel),
    ]
    for one in planned:
        if one.locality != 4:
            tpm.extend(one.event.pcr, dict(one.event.digests), one.locality)  # type: ignore[arg-type]  # banks are known by name
    log = measurer.header() + b"".join(write_event(p.event) for p in planned)
    assert replay(parse(log)) == tpm.read_pcrs(BANKS, PCRS)


def test_quote_verifies_over_every_bank_and_only_with_its_nonce(
    running: swtpm.Swtpm, tpm: Tpm
) -> None:
    launch(running, b"loader")
    nonce = secrets.token_bytes(32)
    public = parse_public(tpm.ak())
    check_attestation_key(public)
    for bank in BANKS:
        attest_bytes, signature_bytes = tpm.quote(nonce, [bank], PCRS)
        signature = parse_signature(signature_bytes)
        verify_quote_signature(public, attest_bytes, signature)
        attest = parse_attest(attest_bytes)
        check_nonce(attest, nonce)
        assert attest.quote is not None
        assert attest.quote.selections[0].pcrs == PCRS
        check_pcr_values(attest.quoted(), tpm.read_pcrs([bank], PCRS), signature.hash)
        with pytest.raises(AppraisalError):
            check_nonce(attest, secrets.token_bytes(32))
        changed = attest_bytes[:-1] + bytes([attest_bytes[-1] ^ 1])
        with pytest.raises(SignatureError):
            verify_quote_signature(public, changed, signature)


def test_only_this_tpm_answers_a_credential_challenge_for_its_own_key(tpm: Tpm) -> None:
    ek, ak = parse_public(tpm.ek().public), parse_public(tpm.ak())
    secret = secrets.token_bytes(32)
    entropy = secrets.token_bytes(ENTROPY_SIZE)
    challenge = make_credential(ek, ak.name(), secret, entropy=entropy)
    for _ in range(4):  # more often than there are transient slots
        assert tpm.activate_credential(challenge.blob, challenge.encrypted_secret) == secret
    other = make_credential(ek, ek.name(), secret, entropy=entropy)
    with pytest.raises(TpmError) as caught:
        tpm.activate_credential(other.blob, other.encrypted_secret)
    assert caught.value.code == "activation"


@pytest.mark.parametrize("blob", [b"", b"\0", bytes(5000), bytes(70_000)])
def test_a_malformed_challenge_is_refused_and_the_tpm_goes_on(tpm: Tpm, blob: bytes) -> None:
    with pytest.raises(TpmError):
        tpm.activate_credential(blob, blob)
    assert tpm.quote(b"n", ["sha256"], (12,))


def test_keys_are_the_same_after_a_restart(home: Home) -> None:
    seen = set()
    for _ in range(2):
        process = swtpm.start(home)
        with Tpm.embedded(process.path) as device:
            seen.add((device.ak(), device.ek().public))
        process.stop()
    assert len(seen) == 1


def test_reset_is_a_new_boot(running: swtpm.Swtpm, tpm: Tpm) -> None:
    tpm.extend(14, {"sha256": bytes(32), "sha384": bytes(48)})
    first = parse_attest(tpm.quote(b"n", ["sha256"], (14,))[0])
    tpm.close()
    running.reset()
    with Tpm.embedded(running.path) as device:
        assert device.read_pcrs(["sha256"], [14]) == {"sha256": {14: bytes(32)}}
        second = parse_attest(device.quote(b"n", ["sha256"], (14,))[0])
    assert second.reset_count == first.reset_count + 1


def test_a_killed_tpm_is_told_from_a_refusing_one(home: Home) -> None:
    process = swtpm.start(home)
    with Tpm.embedded(process.path) as device:
        device.ak()
        os.kill(process.pid, signal.SIGKILL)
        with pytest.raises(TpmError) as caught:
            device.quote(b"n", ["sha256"], [0])
        assert caught.value.code == "tpm-gone"
        with pytest.raises(TpmError) as caught:
            device.extend(14, {"sha256": bytes(32)})
        assert caught.value.code == "tpm-gone"
    with pytest.raises(TpmError) as caught:
        Tpm.embedded(process.path)
    assert caught.value.code == "tpm-gone"
    process.stop()
    with pytest.raises(TpmError) as caught:
        Control(process.control)
    assert caught.value.code == "tpm-gone"


def test_a_tpm_killed_again_and_again_still_quotes(home: Home) -> None:
    for _ in range(8):
        process = swtpm.start(home)
        with Tpm.embedded(process.path) as device:
            assert device.quote(b"n", ["sha256"], [12])
            os.kill(process.pid, signal.SIGKILL)
        process.stop()


def test_a_home_without_tpm_says_so(tmp_path: Path) -> None:
    with pytest.raises(TpmError) as caught:
        swtpm.start(Home(tmp_path))
    assert caught.value.code == "tpm-not-manufactured"


def test_maker_and_banks_are_known(tpm: Tpm) -> None:
    assert tpm.maker().manufacturer == "IBM"
    assert tpm.banks() == BANKS
    with pytest.raises(TpmError) as caught:
        tpm.read_pcrs(["sha512"], [0])
    assert caught.value.code == "tpm-bank"


def test_users_that_are_killed_one_after_the_other_leave_no_object_in_the_tpm(
    running: swtpm.Swtpm,
) -> None:
    def use() -> None:
        device = Tpm.embedded(running.path)
        device.quote(secrets.token_bytes(16), ["sha256"], PCRS)
        os.kill(os.getpid(), signal.SIGKILL)

    for _ in range(5):
        pid = forked(use)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    with Tpm.embedded(running.path) as device:
        assert device.ek().certificate
        assert device.quote(secrets.token_bytes(16), ["sha256"], PCRS)
