"""What a plug-in of the kernel says of itself: ``plugin.toml`` beside its code.

    name = "acme-vhd"            # that of its directory, usr/lib/vmware/plugins/acme-vhd/
    kind = "storage"             # or "tpm"; "network" has no interface yet
    interface = 1                # version of the kind's interface that it was written for
    entry = "vhd:Disk"           # module and what in it is called
    version = "1.0"
    license = "Apache-2.0"
    description = "Disks of Hyper-V"
    suffixes = ["vhd"]           # storage: of the files that it reads
    makers = ["INTC"]            # tpm: the TPM_PT_MANUFACTURER of those that it knows

The file is one of the VIB's payload, so the VIB's signature covers it.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from casemate.errors import FormatError, LimitError

MANIFEST: Final = "plugin.toml"
MAX_MANIFEST: Final = 4096
"""Bytes of a manifest; it has nine short fields."""
MAX_WORDS: Final = 16
"""Suffixes or makers of one plug-in."""

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,34}", re.ASCII)
_ENTRY: Final = re.compile(r"([A-Za-z_][A-Za-z0-9_]{0,63}):([A-Za-z_][A-Za-z0-9_]{0,63})", re.ASCII)
_SUFFIX: Final = re.compile(r"[a-z0-9]{1,12}", re.ASCII)
_MAKER: Final = re.compile(r"[!-~]{1,4}", re.ASCII)
_TEXT: Final = re.compile(r"[ -~]{0,80}", re.ASCII)
_REQUIRED: Final = frozenset({"name", "kind", "interface", "entry"})
_TEXTS: Final = ("version", "license", "description")
_LISTS: Final = ("suffixes", "makers")


class PluginKind(StrEnum):
    """What a plug-in drives."""

    STORAGE = "storage"
    NETWORK = "network"
    TPM = "tpm"


@dataclass(frozen=True, slots=True)
class PluginManifest:
    """A manifest; ``module`` and ``entry`` are the two parts of its ``entry``."""

    name: str
    kind: PluginKind
    interface: int
    module: str
    entry: str
    version: str = ""
    license: str = ""
    description: str = ""
    suffixes: tuple[str, ...] = ()
    makers: tuple[str, ...] = ()


def parse_manifest(data: bytes, *, component: str) -> PluginManifest:
    """Read a manifest.

    Args:
        data: The file.
        component: The plug-in, for errors.

    Raises:
        FormatError: ``plugin-manifest``: it is no TOML, lacks a field, or has one that is not
            known or not of its form.
        LimitError: It is larger than any real one.
    """
    if len(data) > MAX_MANIFEST:
        raise LimitError(
            f"{MANIFEST} has more than {MAX_MANIFEST} bytes.",
            code="plugin-manifest",
            component=component,
        )
    try:
        facts = tomllib.loads(data.decode("utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise _bad(f"it is no TOML ({str(error)[:80]})", component) from error
    if lacking := sorted(_REQUIRED - facts.keys()):
        raise _bad(f"it has no {lacking[0]}", component)
    if strange := sorted(facts.keys() - _REQUIRED - {*_TEXTS, *_LISTS}):
        raise _bad(f"nobody knows its field {strange[0][:40]!r}", component)
    entry = _ENTRY.fullmatch(_word(facts, "entry", _ENTRY, component))
    kind = _word(facts, "kind", _NAME, component)
    interface = facts["interface"]
    if entry is None or kind not in set(PluginKind):
        raise _bad(f"there is no kind {kind!r}", component)
    if not isinstance(interface, int) or isinstance(interface, bool) or not 0 < interface < 1000:  # noqa: PLR2004  (a small number)
        raise _bad("its interface is no small number", component)
    return PluginManifest(
        name=_word(facts, "name", _NAME, component),
        kind=PluginKind(kind),
        interface=interface,
        module=entry[1],
        entry=entry[2],
        suffixes=_words(facts, "suffixes", _SUFFIX, component),
        makers=_words(facts, "makers", _MAKER, component),
        **{name: _word(facts, name, _TEXT, component, default="") for name in _TEXTS},
    )


def _word(
    facts: Mapping[str, object],
    name: str,
    form: re.Pattern[str],
    component: str,
    default: str | None = None,
) -> str:
    value = facts.get(name, default)
    if not isinstance(value, str) or not form.fullmatch(value):
        raise _bad(f"its {name} is not of the form that it must have", component)
    return value


def _words(
    facts: Mapping[str, object], name: str, form: re.Pattern[str], component: str
) -> tuple[str, ...]:
    value = facts.get(name, [])
    if not isinstance(value, list) or len(value) > MAX_WORDS:
        raise _bad(f"its {name} are no list of at most {MAX_WORDS} words", component)
    return tuple(_word({name: one}, name, form, component) for one in value)


def _bad(why: str, component: str) -> FormatError:
    return FormatError(
        f"The manifest of the plug-in {component} cannot be used: {why}.",
        code="plugin-manifest",
        component=component,
        remedy=f"Ask its provider for a good one; docs/plugins.md describes {MANIFEST}.",
    )
