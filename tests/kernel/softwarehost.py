"""A host's software in a directory: real banks and judgement; mounts and TPM are fakes."""

from __future__ import annotations

import asyncio
import hashlib
from types import SimpleNamespace

from casemate.calls import software as s
from casemate.errors import TpmError
from casemate.formats.depot import write_depot
from casemate.kernel.boot.bank import read_banks
from casemate.kernel.software import Place, Software
from casemate.kernel.store import Store
from casemate.kernel.stream import FactStream
from casemate.policy.banks import plan_boot
from casemate.testing.pki import NOW
from casemate.testing.smallimage import FakeLayers


class FakeMeasurements:
    """Keeps what was measured; ``broken`` makes the TPM fail."""

    def __init__(self):
        self.record = SimpleNamespace(taints=(), banks=("sha256",))
        self.measured = []
        self.broken = False

    async def runtime_component(self, fact, digests):
        if self.broken:
            raise TpmError("The TPM went away.")
        self.measured.append((fact.file_name, digests["sha256"]))


class Host:
    """A host's software, asked as over the calls; VIBs are laid into its datastore."""

    def __init__(self, home, disk=None, bank=""):
        self.home = home
        self.store = Store(home.database)
        self.volume = home.volumes / "datastore1"
        bank = bank or plan_boot(read_banks(home)).bank.name
        place = Place(home, bank, self._resolve, NOW.timestamp)
        self.layers = FakeLayers()
        self.stream = FactStream()
        self.measurements = FakeMeasurements()
        self.software = Software(
            place, self.store, self.stream, self.measurements, layers=self.layers, disk=disk
        )

    def _resolve(self, path):
        return self.volume / path.removeprefix("[datastore1] ")

    def ask(self, request):
        try:
            return asyncio.run(self.software.handlers()[type(request)](request, None))
        finally:
            self.store.close()
            self.store = self.software._store = Store(self.home.database)

    def put(self, *files):
        names = []
        for data in files:
            name = hashlib.sha256(data).hexdigest()[:12]
            (self.volume / name).write_bytes(data)
            names.append(f"[datastore1] {name}")
        return tuple(names)

    def install(self, *vibs, action="install", **more):
        return self.ask(s.SoftwareChange("", action, vibs=self.put(*vibs), **more))

    def depot(self, *vibs, profiles=()):
        return self.put(write_depot(vibs, profiles, vendor="Tests"))

    def names(self, *, rebooting=True):
        image = self.ask(s.SoftwareList(rebooting=rebooting))
        return [f"{one.name} {one.version}" for one in image.vibs]
