"""What a host shows of a small measured boot, without a TPM."""

from __future__ import annotations

from casemate.calls.messages import BankValues
from casemate.formats import eventlog
from casemate.machine.facts import ComponentFact
from casemate.policy.measure import BootMeasurer, measured_digests
from casemate.testing.fakefacts import Proof

BANKS = ("sha256", "sha384")


def measured_boot() -> Proof:
    """Return log, PCR values and components that fit each other."""
    measurer = BootMeasurer(BANKS)
    code = measured_digests(b"code", BANKS)
    planned = [
        *measurer.launch("b.b00", code),
        *measurer.command_line("b.b00"),
        *measurer.security_option("execInstalledOnly = TRUE"),
        *measurer.signer(b"\x30certificate"),
        *measurer.version("k.b00", "kernel", "Casemate", "0.1.0"),
        *measurer.component("k.b00", code),
        *measurer.option("useropts.gz", code),
        *measurer.system_version("casemate-0.1.0"),
        *measurer.boot_complete(),
    ]
    events = [one.event for one in planned]
    replayed = eventlog.replay_events(events, BANKS)
    values = {index: replayed["sha256"].get(index, bytes(32)) for index in range(24)}
    kernel = ComponentFact(
        *("k.b00", "id", "casemate-kernel", "0.1.0-1", "Casemate", "partner", "CN=signer"),
        *(12, 19, code["sha256"], code["sha384"], 4),
    )
    return Proof(
        log=measurer.header() + b"".join(map(eventlog.write_event, events)),
        pcrs=(BankValues("sha256", tuple(values.items())),),
        components=(kernel,),
    )
