"""A host in miniature with a TPM of its own: a SmallHost over a swtpm."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

from casemate.kernel.home import Home
from casemate.kernel.tpm import swtpm
from casemate.kernel.tpm.control import Control
from casemate.kernel.tpm.device import Tpm
from casemate.policy.appraise import Evidence
from casemate.policy.measure import BANKS, LOCALITY_LAUNCH, BootMeasurer, PlannedEvent
from casemate.policy.tpmidentity import Claim
from casemate.testing.smallhost import PCRS, SmallHost, SmallImage


class SwtpmHost(SmallHost):
    """A host that booted ``image`` on a swtpm of its own, whose state lies in ``place``.

    ``authority`` is the directory of the CA that certifies the EK; hosts may share it.
    """

    def __init__(self, place: Path, authority: Path, image: SmallImage | None = None) -> None:
        home = Home(place)
        home.create()
        home.tpm.mkdir(exist_ok=True, mode=0o700)
        (home.tpm / "ca").symlink_to(authority)
        swtpm.manufacture(home, BANKS)
        self.process = swtpm.start(home)
        self.turn = threading.Lock()
        self.image = image or SmallImage()
        self.drtm = True
        self.device = Tpm.embedded(self.process.path)
        self.measurer = BootMeasurer(BANKS, drtm=True)
        ek = self.device.ek()
        self._claim = Claim(ek.certificate, ek.public, self.device.ak())
        self.reboot(image)

    def reboot(self, image: SmallImage | None = None) -> None:
        """Reset the TPM and boot again, another image if one is given."""
        with self.turn:
            self.image = image or self.image
            self.files = self.image.files()
            self.measurer = BootMeasurer(BANKS, drtm=True)
            self.device.close()
            self.process.reset()
            self.device = Tpm.embedded(self.process.path)
            self.log = []
            self._boot()

    def _launch(self, code: bytes) -> None:
        with Control(self.process.control) as control:
            control.launch(code)

    def extend(self, planned: Sequence[PlannedEvent]) -> None:
        """Extend and log, as the loader does."""
        for one in planned:
            if one.locality != LOCALITY_LAUNCH:
                digests = {str(bank): value for bank, value in one.event.digests}
                self.device.extend(one.event.pcr, digests, one.locality)
            self.log.append(one.event)

    def claim(self) -> Claim:
        """Return what the host says about its TPM."""
        return self._claim

    def activate(self, blob: bytes, secret: bytes) -> bytes:
        """Answer a credential challenge."""
        with self.turn:
            return self.device.activate_credential(blob, secret)

    def evidence(
        self, nonce: bytes, pcrs: Sequence[int] = PCRS, *, banks: Sequence[str] | None = None
    ) -> Evidence:
        """Return fresh evidence."""
        wanted = BANKS if banks is None else tuple(banks)
        with self.turn:
            quotes = (self.device.quote(nonce, wanted, pcrs),)
            values = self.device.read_pcrs(wanted, pcrs)
            return Evidence(quotes, values, self.log_bytes(), self.claims())

    def close(self) -> None:
        """Switch the machine off."""
        with self.turn:
            self.device.close()
            self.process.stop()
