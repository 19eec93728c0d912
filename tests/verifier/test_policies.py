"""Plain Linux hosts judged by signed policies: firmware, boot, run time, and what is their own."""

from __future__ import annotations

import argparse
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from tests.verifier.conftest import Web
from tests.verifier.test_web import Pushing

from casemate.calls import evidence as wire
from casemate.calls.messages import EvidenceReply, Quote
from casemate.cli import agent, thismachine, verifier
from casemate.errors import (
    CasemateError,
    HostError,
    NotFoundError,
    SignatureError,
    StateError,
    VerificationError,
)
from casemate.formats import ear
from casemate.formats import eventtypes as ev
from casemate.formats.corim import (
    CONTENT_TYPE,
    Comid,
    Corim,
    Environment,
    Measurement,
    ReferenceTriple,
    write_corim,
)
from casemate.formats.cose import sign1
from casemate.formats.ear import Tier
from casemate.formats.eventlog import Event, write
from casemate.formats.ima import write_ima
from casemate.formats.manifest import parse_manifest
from casemate.formats.tpm import write_signature
from casemate.policy.exchange import accept_corim, corim_from_manifest
from casemate.policy.quotes import check_quotes
from casemate.policy.signedtext import join_signed
from casemate.testing.faketpm import FakeTpm
from casemate.testing.firmwarelogs import event, image, machine
from casemate.testing.linuxhost import LinuxHost
from casemate.testing.pki import shared_pki
from casemate.testing.smallhost import SmallImage, sign_reference
from casemate.testing.softkeys import SoftKey
from casemate.verifier import roundstore
from casemate.verifier.enrol import Wanted

POLICY = """policy "linux" version {version}
pcr 0-7 per-host
require secure-boot
require runtime
runtime violations reject
{more}
"""


def signed(text: str, level: str = "certified") -> bytes:
    body = text.encode()
    return join_signed(body, shared_pki().sign(body, level))


def policy(version: int = 1, more: str = "", level: str = "certified") -> bytes:
    return signed(POLICY.format(version=version, more=more), level)


def runtime(version: int = 1, *paths: str) -> bytes:
    value = "sha256:" + hashlib.sha256(b"content").hexdigest()
    body = {"format": "casemate-runtime-1", "version": version, "keys": []}
    return signed(json.dumps({**body, "digests": {path: [value] for path in paths}}) + "\n")


class Linux:
    """A pushing host with its agent."""

    def __init__(self, web: Web, host: LinuxHost, name: str = "linux") -> None:
        self.host = host
        self._web = web
        _, secret = web.service.enrolment.invite(Wanted(name), "anna")
        self._verifier = Pushing(web.client, secret)
        assert self.round()["state"] == "pending"
        web.service.enrolment.approve(name, "anna")

    def round(self) -> dict[str, Any]:
        return agent.Prover(self.host, self._verifier).round()


@pytest.fixture
def linux(web: Web) -> Linux:
    made = Linux(web, LinuxHost())
    web.service.rules.add(policy(), "anna")
    web.service.rules.add_runtime("linux", runtime(1, "/bin/sh", "/bin/ls"), "anna")
    web.service.rules.assign("linux", "linux", "anna")
    return made


def sections(web: Web) -> dict[str, str]:
    answer = web.client.get("/api/v1/hosts/linux/evidence", headers=web.login("vera")).json()
    found: dict[str, str] = answer["result"]["sections"]
    return found


def test_nothing_of_a_hosts_own_is_trusted_before_it_was_approved(web: Web, linux: Linux) -> None:
    told = linux.round()
    assert told["state"] == "not-appraised"
    assert "approve" in told["verdict"]
    answer = web.client.post(
        "/api/v1/hosts/linux/approve-values",
        json={"round": 1, "why": "seen"},
        headers=web.login("olga"),
    )
    assert set(answer.json()["own"]["pcrs"]["sha256"]) == set("01234567")
    linux.host.run(b"/bin/sh")
    assert linux.round()["state"] == "trusted"
    assert sections(web) == {
        "identity": "affirming",
        "firmware": "affirming",
        "boot": "affirming",
        "kernel-and-options": "none",
        "vibs": "none",
        "runtime": "affirming",
        "drtm": "none",
        "hardening": "none",
    }
    token = web.service.tokens.issue("linux")
    assert token.allowed
    told_on = ear.verify(
        token.token,
        {web.service.tokens.key_id: web.service.tokens.public_key},
        now=datetime.now(UTC),
    )
    assert told_on.submodules["runtime"].status is Tier.AFFIRMING
    assert len(told_on.submodules["runtime"].policy_id) == 16


def approve(web: Web, who: str) -> None:
    """Approve what the last round showed."""
    with web.service.database.transaction() as step:
        last = roundstore.latest_round(step, "linux")
    assert last is not None
    web.service.rules.approve_values("linux", who, last.number)


def trusted(web: Web, linux: Linux) -> None:
    linux.round()
    approve(web, "anna")
    assert linux.round()["state"] == "trusted"


@pytest.mark.parametrize(
    ("path", "content", "code"),
    [(b"/tmp/x", b"content", "ima-unknown-file"), (b"/bin/sh", b"other", "ima-digest")],
)
def test_a_program_that_nobody_knows_is_named_and_latches(
    web: Web, linux: Linux, path: bytes, content: bytes, code: str
) -> None:
    trusted(web, linux)
    linux.host.run(path, content)
    told = linux.round()
    assert told["state"] == "failed-latched"
    assert path.decode() in told["verdict"]
    host = web.client.get("/api/v1/hosts/linux", headers=web.login("vera")).json()
    assert (host["codes"], host["assigned"]) == ([code], "linux")
    assert sections(web)["runtime"] in {"contraindicated", "warning"}
    assert sections(web)["firmware"] == "affirming"


def test_another_boot_loader_than_what_was_approved_is_found(web: Web, linux: Linux) -> None:
    trusted(web, linux)
    loader = event(4, ev.EV_EFI_BOOT_SERVICES_APPLICATION, image("\\EFI\\evil.efi"), b"evil")
    linux.host.boot(machine(loader))
    told = linux.round()
    assert told["state"] == "failed-latched"
    assert "PCR 4" in told["verdict"]


def test_a_list_without_its_last_record_does_not_lead_to_the_quote(web: Web, linux: Linux) -> None:
    trusted(web, linux)
    linux.host.run(b"/tmp/x")
    linux.host.entries.pop()
    assert linux.round()["state"] == "failed-latched"
    host = web.client.get("/api/v1/hosts/linux", headers=web.login("vera")).json()
    assert host["codes"] == ["ima-pcr"]


@pytest.mark.parametrize("required", [True, False])
def test_a_host_that_sends_no_list_is_not_taken_for_good(
    web: Web, linux: Linux, *, required: bool
) -> None:
    if not required:  # a runtime policy is in force all the same
        text = POLICY.format(version=2, more="").replace("require runtime\n", "")
        web.service.rules.add(signed(text), "anna")
    trusted(web, linux)
    measured = LinuxHost.evidence
    linux.host.evidence = lambda request: replace(  # type: ignore[method-assign]
        measured(linux.host, request), measurements=b""
    )
    assert linux.round()["state"] == "failed-latched"
    host = web.client.get("/api/v1/hosts/linux", headers=web.login("vera")).json()
    assert host["codes"] == ["runtime-missing"]


def test_who_would_fail_by_the_next_policy_is_told_without_asking_hosts(
    web: Web, linux: Linux
) -> None:
    trusted(web, linux)
    headers = web.login("olga")
    for more, would in (
        ("", "pass"),
        ("pcr 8 equal", "unknown"),
        ("require drtm", "unknown"),
        ("require hardening", "unknown"),
    ):
        answer = web.client.post(
            "/api/v1/policy-rehearsal", content=policy(2, more), headers=headers
        ).json()
        assert answer["counts"] == {would: 1}, more
    assert linux.round()["state"] == "trusted"
    Linux(web, LinuxHost(), "other")
    query = {"hosts": "all"}
    answer = web.client.post(
        "/api/v1/policy-rehearsal", content=policy(2), params=query, headers=headers
    ).json()
    assert [(one["host"], one["would"]) for one in answer["hosts"]] == [
        ("linux", "pass"),
        ("other", "unknown"),
    ]


def test_pages_show_policies_as_text_and_assign_and_approve(web: Web, linux: Linux) -> None:
    linux.round()
    csrf = web.browse()
    web.service.rules.add(
        signed('# <script>alert(1)</script>\npolicy "<b>x</b>" version 1\npcr 0 per-host\n'), "anna"
    )
    page = web.client.get("/policies").text
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "&lt;b&gt;x&lt;/b&gt;" in page
    assert "Approve what is this host" in web.client.get("/hosts/linux").text
    for data in ({}, {"round": "x"}, {"round": ""}):
        web.client.post("/hosts/linux/approve-values", data={"csrf": csrf, **data})
        assert linux.round()["state"] == "not-appraised"
    web.client.post("/hosts/linux/approve-values", data={"csrf": csrf, "round": "1"})
    assert linux.round()["state"] == "trusted"
    web.client.post("/hosts/linux/assign", data={"csrf": csrf, "policy": "<b>x</b>"})
    assert linux.round()["state"] == "not-appraised"


def test_what_is_approved_is_what_was_looked_at_and_not_what_came_since(
    web: Web, linux: Linux
) -> None:
    linux.round()
    csrf = web.browse()
    page = web.client.get("/hosts/linux").text
    found = re.search(r'name="round" value="(\d+)"', page)
    assert found is not None
    linux.host.boot(machine(event(5, ev.EV_EFI_ACTION, b"Exit Boot Services Invocation")))
    linux.host.run(b"/bin/sh")
    assert linux.round()["state"] == "not-appraised"
    web.client.post("/hosts/linux/approve-values", data={"csrf": csrf, "round": found[1]})
    assert "host-value-changed" in codes_of(web, linux)
    headers = web.login("olga")
    for body in ({"round": 0}, {"round": 10**30}, {}, {"why": "seen"}, {"round": None}):
        answer = web.client.post("/api/v1/hosts/linux/approve-values", json=body, headers=headers)
        assert answer.status_code == 400


def codes_of(web: Web, linux: Linux) -> list[str]:
    linux.round()
    host = web.client.get("/api/v1/hosts/linux", headers=web.login("vera")).json()
    found: list[str] = host["codes"]
    return found


def test_policies_are_signed_never_go_back_and_each_result_says_its_version(
    web: Web, linux: Linux
) -> None:
    rules = web.service.rules
    trusted(web, linux)
    for body, error in (
        (policy(2, level="community"), SignatureError),
        (POLICY.format(version=2, more="").encode(), SignatureError),
        (policy(0), VerificationError),
        (policy(1, "allow dma"), StateError),
    ):
        with pytest.raises(error):
            rules.add(body, "anna")
    with pytest.raises(VerificationError):
        rules.add_runtime("linux", runtime(0, "/bin/sh"), "anna")
    with pytest.raises(NotFoundError):
        rules.assign("linux", "nobody's", "anna")
    with pytest.raises(NotFoundError):
        rules.add_runtime("nobody's", runtime(1, "/bin/sh"), "anna")
    before = web.client.get("/api/v1/hosts/linux/evidence", headers=web.login("vera")).json()
    rules.add(policy(2, 'runtime exclude "/tmp/**"'), "anna")
    linux.host.run(b"/tmp/x")
    assert linux.round()["state"] == "trusted"
    after = web.client.get("/api/v1/hosts/linux/evidence", headers=web.login("vera")).json()
    assert after["policy"] > before["policy"]
    assert after["result"]["policy"] != before["result"]["policy"]


def test_an_assignment_that_ends_leaves_the_host_unappraised(web: Web, linux: Linux) -> None:
    trusted(web, linux)
    answer = web.client.put(
        "/api/v1/hosts/linux/policy", json={"policy": ""}, headers=web.login("olga")
    )
    assert answer.status_code == 200
    assert linux.round()["state"] == "not-appraised"
    with pytest.raises(StateError):
        approve(web, "anna")


def test_what_a_refused_quote_showed_cannot_be_approved(web: Web, linux: Linux) -> None:
    linux.round()
    asked = linux._verifier.post("/nonce")
    quote = Quote(bytes.fromhex(asked["nonce"]), tuple(asked["banks"]), tuple(asked["pcrs"]))
    reply = linux.host.evidence(quote)
    [(attest, signature)] = reply.quotes
    forged = replace(reply, quotes=((attest, signature[:-1] + bytes([signature[-1] ^ 1])),))
    told = linux._verifier.post(f"/evidence?nonce={asked['nonce']}", wire.encode(forged))
    assert told["state"] == "failed-latched"
    with pytest.raises(StateError):
        approve(web, "anna")


def corim(values: dict[int, bytes], version: int = 1, level: str = "certified") -> bytes:
    registers: dict[int | str, Any] = {pcr: (("sha256", one),) for pcr, one in values.items()}
    measured = (Measurement("firmware", registers=registers),)
    triple = ReferenceTriple(Environment(vendor="maker", model="board"), measured)
    payload = write_corim(Corim("board", (Comid("board", version, (triple,)),)))
    pki = shared_pki()
    chain = pki.signers[level].certificate, pki.issuers[level].certificate
    ders = tuple(one.public_bytes(serialization.Encoding.DER) for one in chain)
    key = pki.signers[level].key
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return sign1(payload, key, content_type=CONTENT_TYPE, chain=ders)


def test_a_corim_of_the_machines_maker_says_what_firmware_must_be(web: Web) -> None:
    linux, rules = Linux(web, LinuxHost()), web.service.rules
    rules.add(signed('policy "boards" version 1\npcr 7 per-host\n'), "anna")
    good = linux.host.tpm.values()["sha256"]
    with pytest.raises(SignatureError):
        rules.add_corim("boards", corim({0: good[0]}, level="community"), "anna")
    answer = web.client.post(
        "/api/v1/policies/boards/corim",
        content=corim({pcr: good[pcr] for pcr in (0, 4)}),
        headers=web.login("olga"),
    )
    assert answer.json()["version"] == 1
    rules.assign("linux", "boards", "anna")
    assert linux.round()["state"] == "trusted"
    assert sections(web)["firmware"] == "affirming"
    rules.add_corim("boards", corim({0: bytes(32)}, 2), "anna")
    told = linux.round()
    assert told["state"] == "failed-latched"
    assert "PCR 0" in told["verdict"]
    with pytest.raises(VerificationError):
        rules.add_corim("boards", corim({0: good[0]}, 1), "anna")


def test_a_reference_is_exported_as_a_corim_and_taken_back(
    tmp_path: Path, web: Web, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest, pki = SmallImage().reference(), shared_pki()
    source = tmp_path / "reference.json"
    source.write_bytes(sign_reference(manifest))
    key, chain = tmp_path / "key.pem", tmp_path / "cert.pem"
    signer = pki.signers["certified"]
    key.write_bytes(signer.key_pem)
    chain.write_bytes(signer.pem + pki.issuers["certified"].pem)
    parser = argparse.ArgumentParser()
    verifier.add_parser(parser.add_subparsers())
    names = ("--key", str(key), "--cert", str(chain))
    options = parser.parse_args(["verifier", "policy", "export-corim", str(source), *names])
    assert options.func(options) == 0
    found, by = accept_corim(
        (tmp_path / "reference.corim").read_bytes(), web.service.anchors.trust(), datetime.now(UTC)
    )
    assert found == corim_from_manifest(manifest)
    assert "certified" in by
    text = tmp_path / "linux.policy"
    text.write_text(POLICY.format(version=3, more=""))
    options = parser.parse_args(["verifier", "policy", "sign", str(text), *names])
    assert options.func(options) == 0
    added = web.service.rules.add((tmp_path / "linux.policy.signed").read_bytes(), "anna")
    assert (added.name, added.version) == ("linux", 3)
    assert "linux.policy.signed" in capsys.readouterr().out


def shell(*words: str) -> int:
    parser = argparse.ArgumentParser()
    verifier.add_parser(parser.add_subparsers())
    options = parser.parse_args(["verifier", "policy", *words])
    status: int = options.func(options)
    return status


def test_the_log_of_an_inspected_machine_becomes_the_reference_of_its_kind(
    tmp_path: Path, web: Web
) -> None:
    pki = shared_pki()
    signer = pki.signers["certified"]
    (tmp_path / "key.pem").write_bytes(signer.key_pem)
    (tmp_path / "cert.pem").write_bytes(signer.pem + pki.issuers["certified"].pem)
    names = ("--key", str(tmp_path / "key.pem"), "--cert", str(tmp_path / "cert.pem"))
    locality = Event(0, ev.EV_NO_ACTION, (("sha256", bytes(32)),), b"StartupLocality\0\3")
    log = machine()
    log = replace(log, events=(locality, *log.events))
    source = tmp_path / "board.rimel"
    source.write_bytes(write(log))
    assert shell("reference", str(source), "board", *names) == 0
    made = tmp_path / "board.rimel.reference.json"
    added = web.service.book.add(made.read_bytes(), "anna")
    assert (added.profile, added.signer.startswith("CN=Signer certified")) == ("board", True)
    linux = Linux(web, LinuxHost())
    web.service.rules.add(
        signed('policy "boards" version 1\npcr 0 excluded\npcr 1-3,5-7 equal\npcr 4 events\n'),
        "anna",
    )
    web.service.rules.assign("linux", "boards", "anna")
    assert linux.round()["state"] == "trusted"
    loader = event(4, ev.EV_EFI_BOOT_SERVICES_APPLICATION, image("\\EFI\\evil.efi"), b"evil")
    linux.host.boot(machine(loader))
    told = linux.round()
    assert told["state"] == "failed-latched"
    assert "PCR 4" in told["verdict"] or "evil.efi" in told["verdict"]


def rim(name: str, size: int, value: str) -> str:
    return (
        '<SoftwareIdentity xmlns="http://standards.iso.org/iso/19770/-2/2015/schema.xsd" '
        'xmlns:h="http://www.w3.org/2001/04/xmlenc#sha256" name="board" version="1.2" tagId="t">'
        '<Entity name="maker" role="softwareCreator tagCreator"/><Payload>'
        f'<File name="{name}" size="{size}" h:hash="{value}"/></Payload></SoftwareIdentity>'
    )


def test_a_rim_says_by_its_hash_which_log_is_meant(tmp_path: Path) -> None:
    pki = shared_pki()
    signer = pki.signers["certified"]
    (tmp_path / "key.pem").write_bytes(signer.key_pem)
    (tmp_path / "cert.pem").write_bytes(signer.pem)
    names = ("--key", str(tmp_path / "key.pem"), "--cert", str(tmp_path / "cert.pem"))
    source, tag = tmp_path / "board.rimel", tmp_path / "board.swidtag"
    raw = write(machine())
    source.write_bytes(raw)
    words = ("reference", str(source), "board", "--rim", str(tag), *names)
    tag.write_text(rim("board.rimel", len(raw), "0" * 64))
    with pytest.raises(CasemateError) as refused:
        shell(*words)
    assert refused.value.code == "reference-digest"
    tag.write_text(rim("board.rimel", len(raw), hashlib.sha256(raw).hexdigest()))
    assert shell(*words) == 0
    made = parse_manifest((tmp_path / "board.rimel.reference.json").read_bytes()).manifest
    assert (made.profile_vendor, made.build) == ("maker", "1.2")


def test_a_log_that_is_wrong_by_itself_makes_no_reference(tmp_path: Path) -> None:
    source = tmp_path / "log"
    wrong = machine(event(7, ev.EV_EFI_ACTION, b"DMA Protection Disabled", b"other"))
    source.write_bytes(write(wrong))
    with pytest.raises(CasemateError) as refused:
        shell("reference", str(source), "board")
    assert refused.value.code == "event-data"


class MovingTpm:
    """A TPM into which IMA extends while it is asked: ``moves`` times after a quote."""

    def __init__(self, moves: int) -> None:
        self.inner = FakeTpm(("sha256", "sha384"))
        self.moves = moves
        self.key = SoftKey()

    def banks(self) -> tuple[str, ...]:
        return ("sha256", "sha384")

    def quote(self, nonce: bytes, banks: Sequence[str], pcrs: Sequence[int]) -> tuple[bytes, bytes]:
        attest, signature = self.inner.quote(nonce, dict.fromkeys(banks, pcrs), self.key)
        if self.moves:
            self.moves -= 1
            self.inner.extend(10, {"sha256": b"\1" * 32, "sha384": b"\1" * 48})
        return attest, write_signature(signature)

    def read_pcrs(self, banks: Sequence[str], pcrs: Sequence[int]) -> dict[str, dict[int, bytes]]:
        values = self.inner.values()
        return {bank: {pcr: values[bank][pcr] for pcr in pcrs} for bank in banks}


def test_quotes_and_values_are_of_one_moment_while_programs_are_measured(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(write(machine()))
    (tmp_path / "ima").write_bytes(b"list")
    question = Quote(b"n" * 32, ("sha256", "sha384", "sm3_256"), (0, 10))
    for moves in (0, 1, 2, 5):
        tpm = MovingTpm(moves)
        source = thismachine.ThisMachine(cast("Any", tpm), tmp_path / "log", tmp_path / "ima")
        reply = source.evidence(question)
        values = {one.algorithm: dict(one.values) for one in reply.pcrs}
        check_quotes(reply.quotes, values, tpm.key.public, b"n" * 32)
        assert set(values) == {"sha256", "sha384"}
        assert reply.measurements == b"list"
    source = thismachine.ThisMachine(cast("Any", MovingTpm(1000)), tmp_path / "log")
    with pytest.raises(HostError) as busy:
        source.evidence(question)
    assert busy.value.code == "pcrs-busy"


def test_list_is_sent_from_where_the_last_round_ended(web: Web, linux: Linux) -> None:
    prover = agent.Prover(linux.host, linux._verifier)
    sizes: list[int] = []
    post = linux._verifier.post

    def listen(path: str, body: bytes = b"") -> dict[str, Any]:
        if path.startswith("/evidence"):
            sizes.append(len(body))
        return post(path, body)

    linux._verifier.post = listen  # type: ignore[method-assign]  # a listener in between
    prover.round()
    approve(web, "olga")
    for _ in range(100):
        linux.host.run(b"/bin/sh")
    assert prover.round()["state"] == "trusted"
    linux.host.run(b"/bin/ls")
    assert prover.round()["state"] == "trusted"
    assert sizes[2] < sizes[1] / 4
    with web.service.database.transaction() as step:
        kept = roundstore.latest_round(step, "linux")
    assert kept is not None
    assert wire.decode(EvidenceReply, kept.evidence).measurements == write_ima(
        tuple(linux.host.entries)
    )
    # The machine boots again: its list is shorter and begins anew.
    linux.host.boot(linux.host.log)
    linux.host.run(b"/bin/ls")
    assert prover.round()["state"] == "trusted"
    linux.host.run(b"/bin/sh")
    assert prover.round()["state"] == "trusted"
    # A program that nobody knows, among what is new.
    linux.host.run(b"/bin/nc")
    told = prover.round()
    assert told["state"] == "failed-latched"
    assert "/bin/nc" in told["verdict"]


def test_list_that_goes_on_from_what_was_never_sent_is_no_verdict(web: Web, linux: Linux) -> None:
    linux.round()
    approve(web, "olga")
    for _ in range(3):
        linux.host.run(b"/bin/sh")
    assert linux.round()["state"] == "trusted"
    asked = linux._verifier.post("/nonce")
    quote = Quote(bytes.fromhex(asked["nonce"]), tuple(asked["banks"]), tuple(asked["pcrs"]))
    reply = linux.host.evidence(quote)
    path = f"/evidence?nonce={asked['nonce']}"
    hidden = replace(reply, measurements=b"x" * 50 + reply.measurements[50:])
    for size, sent in ((50, hidden), (10**6, reply), (len(reply.measurements) + 1, reply)):
        with pytest.raises(PermissionError, match="send-whole"):
            linux._verifier.post(path, wire.continued(sent, size))
    body = wire.continued(reply, 50)
    with pytest.raises(PermissionError, match="malformed"):
        linux._verifier.post(path, body.replace(b',"measurements":"', b',"measurement":"'))
    assert linux._verifier.post(path, body)["state"] == "trusted"
