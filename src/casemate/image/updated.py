"""The bank that an update will write, made beforehand: what a host's new image must measure.

The host plans an update by the same functions (``policy.solve``, ``policy.newimage``), so that a
reference can be in force at the verifier before the first host has the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from casemate.errors import HostError
from casemate.formats.bootcfg import write_bootcfg
from casemate.formats.imgdb import write_imgdb
from casemate.formats.vib import Vib, parse_vib
from casemate.image.profile import CONFIGURATION, DATABASE, read_bank
from casemate.policy import solve
from casemate.policy.newimage import NewVib, new_image


def write_updated(bank: Path, vibs: Sequence[Path], out: Path) -> None:
    """Write the bank that installing VIB files on a host with ``bank`` gives.

    Nothing is verified here: whoever makes a reference of it verifies all, as the host does.

    Args:
        bank: what the host runs.
        vibs: the files to be installed.
        out: a directory that is there.

    Raises:
        HostError: a file cannot be read or written.
        CasemateError: a file is no VIB, or the VIBs do not go together.
    """
    config, database = read_bank(bank)
    given = [parse_vib(_read(path), component=path.name) for path in vibs]
    before = {one.descriptor.vib_id: one for one in database.vibs}
    fresh: dict[str, Vib] = {one.descriptor.vib_id: one for one in given}
    wanted = [one.descriptor for one in given]
    present = [one.descriptor for one in database.vibs]
    change = solve.install(present, wanted, [], update=False, force=False)
    chosen = {one.vib_id for one in change.installed}
    members = []
    for one in change.result:
        source = fresh[one.vib_id] if one.vib_id in chosen else before[one.vib_id]
        members.append(NewVib(one, source.descriptor_bytes, source.signature))
    new_config, new_database = new_image(config, database, members)
    for vib in new_database.vibs:
        identifier = vib.descriptor.vib_id
        for payload, name in vib.files.items():
            data = (
                bytes(fresh[identifier].payloads[payload])
                if identifier in chosen
                else _read(bank / before[identifier].files[payload])
            )
            _write(out / name, data)
    _write(out / DATABASE, write_imgdb(new_database))
    newest = replace(new_config, updated=config.updated + 1)
    _write(out / CONFIGURATION, write_bootcfg(newest))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise HostError(f"{path} cannot be read: {error.strerror}.", component=path.name) from error


def _write(path: Path, data: bytes) -> None:
    try:
        path.write_bytes(data)
    except OSError as error:
        raise HostError(
            f"{path} cannot be written: {error.strerror}.", component=path.name
        ) from error
