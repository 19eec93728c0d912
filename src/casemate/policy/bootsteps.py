"""The one ordered description of a boot: the loader carries it out, prediction writes it down.

Everything follows from VIBs (through the image database), boot.cfg and trust anchors: nothing in
it needs a booted host.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from cryptography.hazmat.primitives.serialization import Encoding

from casemate.formats.bootcfg import BootCfg, BootModule
from casemate.formats.imgdb import ImageDb
from casemate.policy.steps import (
    BootComplete,
    CommandLine,
    Component,
    Launch,
    Option,
    SecurityOption,
    Signer,
    Step,
    SystemVersion,
    TrustAnchor,
    Version,
    VibIdentity,
)
from casemate.policy.trust import CLOCKS, MODULE_KEYS, TrustStore

EXEC_INSTALLED_ONLY: Final = "execInstalledOnly"
"""The boot option: executed is only what VIBs bring."""


def boot_steps(
    cfg: BootCfg,
    db: ImageDb,
    anchors: Iterable[TrustAnchor],
    signers: Mapping[str, bytes],
    *,
    secure_boot: bool = False,
    waivers: Iterable[str] = (),
) -> Iterator[Step]:
    """List what a boot of this bank does, in order.

    Args:
        cfg: the bank's boot.cfg.
        db: the bank's image database.
        anchors: all trust anchors; their order does not matter.
        signers: VIB id to the certificate (DER) that signed it; unsigned VIBs are absent.
        secure_boot: whether firmware verified the loader.
        waivers: the hardening waivers in force, as ``policy.waivers.option_text`` gives them.
    """
    owners = _owners(db)
    yield Launch(cfg.kernel)
    yield from sorted(
        (TrustAnchor(tuple(sorted(a.levels)), a.certificate) for a in anchors),
        key=lambda anchor: (anchor.levels, anchor.certificate),
    )
    yield CommandLine(_command_line(cfg.kernel, cfg.kernelopt))
    for text in (*security_options(cfg, db, secure_boot=secure_boot), *waivers):
        yield SecurityOption(text)
    seen: set[bytes] = set()
    for module in (BootModule(cfg.kernel, ""), *cfg.modules):
        vib, payload = owners.get(module.name, (None, None))
        signer = signers.get(vib.vib_id) if vib else None
        if signer is not None and signer not in seen:
            seen.add(signer)
            yield Signer(signer)
        if vib and module.name.partition(".")[0] in {"b", "k"}:
            yield Version(module.name, vib.name, db.profile.name, vib.version)
        if module.options:
            yield CommandLine(_command_line(module.name, module.options))
        kind = Option if module.name.endswith(".gz") else Component
        yield kind(module.name, vib, payload)
    yield SystemVersion(f"{db.profile.vendor} {db.profile.name} {cfg.build}")
    yield BootComplete()


def measured_anchors(store: TrustStore) -> tuple[TrustAnchor, ...]:
    """Return the anchors as a boot measures them: what each may give, and its certificate."""
    return (
        *(TrustAnchor(tuple(sorted(one.value for one in a.levels)), a.der) for a in store.anchors),
        *(TrustAnchor((CLOCKS,), one.public_bytes(Encoding.DER)) for one in store.clocks),
        *(TrustAnchor((MODULE_KEYS,), one.public_bytes(Encoding.DER)) for one in store.modules),
    )


def security_options(cfg: BootCfg, db: ImageDb, *, secure_boot: bool) -> tuple[str, ...]:
    """Return the security options in force: what boot.cfg and the image profile decide."""
    return (
        f"acceptanceLevel = {db.profile.acceptance_level}",
        f"{EXEC_INSTALLED_ONLY} = {'TRUE' if exec_installed_only(cfg) else 'FALSE'}",
        f"uefiSecureBootEnabled = {'TRUE' if secure_boot else 'FALSE'}",
    )


def exec_installed_only(cfg: BootCfg) -> bool:
    """Tell whether a bank boots with execInstalledOnly."""
    words = {w.partition("=")[0]: w.partition("=")[2] for w in cfg.kernelopt.split()}
    return words.get(EXEC_INSTALLED_ONLY, "TRUE").upper() != "FALSE"


def _owners(db: ImageDb) -> dict[str, tuple[VibIdentity, str]]:
    owners: dict[str, tuple[VibIdentity, str]] = {}
    for file_name, (vib, payload) in db.owners().items():
        one = vib.descriptor
        identity = VibIdentity(one.vib_id, one.name, one.version, one.vendor, one.acceptance_level)
        owners[file_name] = (identity, payload.name)
    return owners


def _command_line(file_name: str, options: str) -> str:
    return f"{file_name} {options}" if options else file_name
