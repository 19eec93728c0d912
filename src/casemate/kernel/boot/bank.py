"""The boot banks on disk: read, and their states written one sector at a time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from casemate.errors import CasemateError
from casemate.formats.bootcfg import BootCfg, BootState, parse_bootcfg, write_bootcfg
from casemate.kernel.files import write_file
from casemate.kernel.home import Home
from casemate.policy.banks import Bank

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


def write_config(home: Home, name: str, config: BootCfg) -> None:
    """Replace a bank's boot.cfg."""
    write_file(home.path / name / "boot.cfg", write_bootcfg(config))
