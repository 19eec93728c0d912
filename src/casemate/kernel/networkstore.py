"""Switches and port groups in the kernel's store."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any, Final

from casemate.errors import ArgumentError
from casemate.kernel.store import Store
from casemate.machine.nat import Nat
from casemate.machine.networks import (
    FIRST,
    Networks,
    PolicyOverride,
    PortGroupFact,
    SecurityPolicy,
    SwitchFact,
)
from casemate.machine.shaping import INHERITED, NOT_SHAPED, Shaping
from casemate.machine.teaming import Teaming

_VALUE: Final = "networks"


def keep_networks(store: Store, networks: Networks) -> None:
    """Keep all switches and port groups."""
    store.set_value(_VALUE, json.dumps(asdict(networks)))


def load_networks(store: Store) -> Networks:
    """Return what was kept; on a new host, what ESXi begins with. Raises ArgumentError."""
    text = store.value(_VALUE)
    if text is None:
        return FIRST
    try:
        value = json.loads(text)
        switches = tuple(
            SwitchFact(
                **{
                    **one,
                    "uplinks": tuple(one["uplinks"]),
                    "security": SecurityPolicy(**one["security"]),
                    "nat": _nat(one.get("nat")),
                    "shaping": Shaping(**one.get("shaping", asdict(NOT_SHAPED))),
                    "teaming": _teaming(one.get("teaming", {})),
                }
            )
            for one in value["switches"]
        )
        groups = tuple(
            PortGroupFact(
                **{
                    **one,
                    "security": PolicyOverride(**one["security"]),
                    "shaping": Shaping(**one.get("shaping", asdict(INHERITED))),
                    "teaming": _teaming(one.get("teaming", {})),
                }
            )
            for one in value["groups"]
        )
    except (ValueError, TypeError, KeyError) as error:
        raise ArgumentError(
            f"the stored networks cannot be read: {error}", argument=_VALUE
        ) from error
    return Networks(switches, groups)


def _teaming(value: dict[str, Any]) -> Teaming:
    order = {
        name: None if value.get(name) is None else tuple(value[name])
        for name in ("active", "standby")
    }
    return Teaming(**{**value, **order})


def _nat(value: dict[str, Any] | None) -> Nat | None:
    if value is None:
        return None
    return Nat(**{**value, "name_servers": tuple(value["name_servers"])})
