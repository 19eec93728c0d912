"""A plain Linux machine: a real TPM (swtpm) and a log, through the agent and the whole verifier."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.verifier.conftest import Web
from tests.verifier.test_web import Pushing

from casemate.cli import agent, thismachine
from casemate.kernel.home import Home
from casemate.kernel.tpm import swtpm
from casemate.kernel.tpm.device import Tpm
from casemate.policy.measure import STATIC_PCRS
from casemate.testing.smallhost import SmallHost, SmallImage, sign_reference
from casemate.verifier.enrol import Wanted

pytestmark = [pytest.mark.host, pytest.mark.usefixtures("root_only")]


@pytest.fixture
def tpm(tmp_path: Path) -> Iterator[Tpm]:
    home = Home(tmp_path / "h")
    home.create()
    swtpm.manufacture(home)
    for root in (home.trust / "ek").iterdir():
        (tmp_path / "trust" / "ek" / root.name).write_bytes(root.read_bytes())
    running = swtpm.start(home)
    with Tpm.embedded(running.path) as device:
        yield device
    running.stop()


def test_linux_machine_with_a_tpm_is_enrolled_and_judged(
    web: Web, tpm: Tpm, tmp_path: Path
) -> None:
    image = SmallImage()
    model = SmallHost(image, drtm=False)
    for event in model.log:
        tpm.extend(event.pcr, {str(bank): value for bank, value in event.digests})
    log = tmp_path / "binary_bios_measurements"
    log.write_bytes(model.log_bytes())
    whole = image.reference()
    static = replace(
        whole,
        events=tuple(one for one in whole.events if one.event.pcr in STATIC_PCRS),
        pcrs={
            bank: {pcr: one for pcr, one in values.items() if pcr in STATIC_PCRS}
            for bank, values in whole.pcrs.items()
        },
    )
    web.service.book.add(sign_reference(static), "anna")
    _, secret = web.service.enrolment.invite(Wanted("linux"), "anna")
    source, pushing = thismachine.ThisMachine(tpm, log), Pushing(web.client, secret)
    assert agent.Prover(source, pushing).round()["state"] == "pending"
    web.service.enrolment.approve("linux", "anna")
    assert agent.Prover(source, pushing).round()["state"] == "trusted"
    tpm.extend(14, {"sha256": b"\1" * 32, "sha384": b"\1" * 48})
    told = agent.Prover(source, pushing).round()
    assert told["state"] == "failed-latched"
    assert "PCR 14" in told["verdict"]
