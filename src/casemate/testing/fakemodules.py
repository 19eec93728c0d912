"""The modules of FakeKernel: one that has options."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from casemate.calls.messages import Empty
from casemate.calls.modules import NO_MODULE, Module, ModuleList, ModuleSet, ModulesReply
from casemate.hostd.kernelclient import RefusedError
from casemate.machine.facts import FaultFact

MODULE = Module(
    name="acme_net",
    file="/usr/lib/vmware/vmkmod/acme_net.ko",
    loaded=True,
    enabled=True,
    license="GPL",
    version="2.1",
    depends=(),
    vib="acme-net",
    vib_version="1.0.0-1",
    level="PartnerSupported",
    status="Signed",
    issuer="CN=ACME",
    digest="00" * 32,
    fingerprint="11" * 32,
    parameters=(("debug", "int", "Say more"),),
    options="debug=1",
    kind="Linux module",
)


class FakeModules:
    """Answers the requests of ``calls.modules``."""

    def __init__(self) -> None:
        self._module = MODULE

    def answers(self) -> dict[type, Callable[[object], object]]:
        """Return the answers by request."""
        return {ModuleList: self._list, ModuleSet: self._set}

    def _list(self, request: object) -> object:
        assert isinstance(request, ModuleList)
        if request.name not in {"", self._module.name}:
            raise RefusedError(FaultFact("ManagedObjectNotFound", NO_MODULE, "None.", ""))
        return ModulesReply((self._module,))

    def _set(self, request: object) -> object:
        assert isinstance(request, ModuleSet)
        self._module = replace(self._module, options=request.options or "")
        return Empty()
