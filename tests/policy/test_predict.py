"""What is predicted is what a boot leaves behind."""

from __future__ import annotations

from dataclasses import replace

import pytest

from casemate.errors import FormatError
from casemate.formats.bootcfg import BootModule
from casemate.formats.eventlog import parse, replay
from casemate.policy.measure import (
    BANKS,
    DRTM_PCRS,
    STATIC_PCRS,
    CommandLine,
    Component,
    Launch,
    Option,
    SecurityOption,
    Signer,
    Step,
    TrustAnchor,
    boot_steps,
)
from casemate.policy.predict import predict
from casemate.testing.pki import NOW
from casemate.testing.smallhost import SmallHost, SmallImage, anchors


def steps(image: SmallImage | None = None) -> list[Step]:
    bank = (image or SmallImage()).bank()
    signers = {vib_id: certificate for vib_id, (_, certificate) in bank.signers.items()}
    return list(boot_steps(bank.cfg, bank.db, bank.anchors, signers))


@pytest.mark.parametrize("drtm", [True, False])
def test_predicted_pcrs_equal_those_of_the_booted_host(drtm: bool) -> None:
    host = SmallHost(drtm=drtm)
    reference = predict(host.image.bank(), created=NOW, drtm=drtm)
    wanted = (*STATIC_PCRS, *DRTM_PCRS) if drtm else STATIC_PCRS
    assert reference.indexes == wanted
    assert reference.launched is drtm
    for bank, values in host.tpm.values().items():
        assert reference.pcrs[bank] == {pcr: values[pcr] for pcr in wanted}


def test_predicted_events_equal_the_log() -> None:
    host = SmallHost()
    log = parse(host.log_bytes())
    assert [one.event for one in host.image.reference().events] == list(log.events)
    for bank, values in replay(log).items():
        assert values.items() <= host.tpm.values()[bank].items()


def test_the_order_in_which_anchors_are_read_does_not_matter() -> None:
    bank = SmallImage().bank()
    shuffled = replace(bank, anchors=tuple(reversed(anchors())))
    assert predict(bank, created=NOW) == predict(shuffled, created=NOW)


def test_an_added_trust_anchor_changes_the_prediction() -> None:
    bank = SmallImage().bank()
    extra = TrustAnchor(("community",), b"stranger")
    more = predict(replace(bank, anchors=(*bank.anchors, extra)), created=NOW)
    less = predict(bank, created=NOW)
    changed = {pcr for pcr in less.indexes if more.pcrs["sha256"][pcr] != less.pcrs["sha256"][pcr]}
    assert changed == {14, 18}


def test_what_decides_on_modules_is_measured_before_them() -> None:
    listed = steps()
    first_component = next(i for i, s in enumerate(listed) if isinstance(s, Component))
    deciding = [
        i
        for i, s in enumerate(listed)
        if isinstance(s, Launch | TrustAnchor | CommandLine | SecurityOption)
    ]
    assert max(deciding) < first_component
    assert isinstance(listed[0], Launch)


def test_each_signer_is_measured_once_before_the_first_file_it_vouches_for() -> None:
    listed = steps()
    signers = [s.certificate for s in listed if isinstance(s, Signer)]
    assert len(signers) == len(set(signers)) == 3
    seen: set[bytes] = set()
    bank = SmallImage().bank()
    for step in listed:
        if isinstance(step, Signer):
            seen.add(step.certificate)
        if isinstance(step, Component | Option) and step.vib is not None:
            assert bank.signers[step.vib.vib_id][1] in seen


def test_files_are_loaded_in_the_order_of_boot_cfg() -> None:
    names = [s.file_name for s in steps() if isinstance(s, Component | Option)]
    assert names == [module.name for module in SmallImage().cfg().files]
    assert [s.file_name for s in steps() if isinstance(s, Option)] == ["useropts.gz"]


def test_options_of_a_module_are_measured() -> None:
    bank = SmallImage().bank()
    cfg = replace(bank.cfg, modules=(BootModule("k.b00", "debug"), *bank.cfg.modules[1:]))
    texts = [
        one.text
        for one in boot_steps(cfg, bank.db, bank.anchors, {})
        if isinstance(one, CommandLine)
    ]
    assert texts == ["b.b00 bootUUID=1", "k.b00 debug"]


@pytest.mark.parametrize(
    ("kernelopt", "expected"),
    [
        ("", "execInstalledOnly = TRUE"),
        ("execInstalledOnly=FALSE", "execInstalledOnly = FALSE"),
        ("execInstalledOnly=false quiet", "execInstalledOnly = FALSE"),
        ("execInstalledOnly=TRUE", "execInstalledOnly = TRUE"),
    ],
)
def test_exec_installed_only_is_on_unless_switched_off(kernelopt: str, expected: str) -> None:
    texts = [
        s.text for s in steps(SmallImage(kernelopt=kernelopt)) if isinstance(s, SecurityOption)
    ]
    assert expected in texts
    assert "acceptanceLevel = partner" in texts


def test_a_file_of_boot_cfg_that_was_not_hashed_is_refused() -> None:
    bank = SmallImage().bank()
    rest = {name: value for name, value in bank.digests.items() if name != "nic.v00"}
    with pytest.raises(FormatError) as caught:
        predict(replace(bank, digests=rest), created=NOW)
    assert (caught.value.code, caught.value.component) == ("digest-missing", "nic.v00")


def test_both_banks_are_predicted() -> None:
    assert tuple(SmallImage().reference().pcrs) == BANKS
