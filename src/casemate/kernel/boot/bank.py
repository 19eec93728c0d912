"""The boot banks on disk: read, and their states written one sector at a time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from casemate.errors import CasemateError
from casemate.formats.bootcfg import BootCfg, BootState, parse_bootcfg, write_bootcfg
from casemate.formats.osrelease import BOOT_IMAGE, image_identity
from casemate.kernel.files import write_file
from casemate.kernel.home import Home
from casemate.kernel.sys.memfd import mapped
from casemate.policy.banks import Bank, mark_complete, mark_tried

DAMAGED = "damaged"
"""Identity of a boot image that cannot be read: no image has it, so it is left to firmware."""
CFG_LIMIT = 64 << 10
"""Bytes of a boot.cfg: what the parser takes."""


def read_bank(home: Home, name: str) -> Bank:
    """Read one bank; what is wrong with it is part of the result."""
    try:
        with (home.path / name / "boot.cfg").open("rb") as file:
            return Bank(name, parse_bootcfg(file.read(CFG_LIMIT + 1)))
    except FileNotFoundError:
        return Bank(name, None)
    except OSError as error:
        problem = CasemateError(f"{name} cannot be read: {error.strerror}", code="bank-unreadable")
    except CasemateError as error:
        problem = error
    return Bank(name, None, replace(problem.finding(), component=name))


def read_banks(home: Home) -> tuple[Bank, ...]:
    """Read all banks."""
    return tuple(read_bank(home, place.name) for place in home.banks)


def write_states(home: Home, states: Iterable[tuple[str, BootState]]) -> None:
    """Write the states that a plan asks for, durably, before the boot goes on."""
    for name, state in states:
        config = read_bank(home, name).config
        if config is not None:
            write_config(home, name, replace(config, bootstate=state))


def write_complete(home: Home, name: str) -> None:
    """Note that a bank's boot completed."""
    config = read_bank(home, name).config
    if config is not None:
        write_config(home, name, mark_complete(config))


def write_tried(home: Home, name: str) -> None:
    """Note that a bank's boot image is asked for, before firmware is."""
    config = read_bank(home, name).config
    if config is not None:
        write_config(home, name, mark_tried(config))


def read_images(home: Home) -> dict[str, str]:
    """Return the identity of the boot image in each bank; empty for what is no boot image."""
    found = {}
    for place in home.banks:
        try:
            with (place / BOOT_IMAGE).open("rb") as file, mapped(file.fileno()) as view:
                found[place.name] = image_identity(view)
        except OSError:
            found[place.name] = ""
        except CasemateError:
            found[place.name] = DAMAGED
    return found


def write_config(home: Home, name: str, config: BootCfg) -> None:
    """Replace a bank's boot.cfg."""
    write_file(home.path / name / "boot.cfg", write_bootcfg(config))
