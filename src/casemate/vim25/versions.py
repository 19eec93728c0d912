"""Versions of the vSphere API: which are offered, which one a client means, what is visible in it.

The document is what ``GET /sdk/vimServiceVersions.xml`` answers; clients that read it pick the
newest version that they know, the others name theirs in the SOAPAction header of every request.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache

from pyVmomi import VmomiSupport

from casemate.vim25 import types

RELEASES = (
    "9.1.0.0",
    "9.0.0.0",
    "8.0.3.1",
    "8.0.3.0",
    "8.0.2.0",
    "8.0.1.0",
    "8.0.0.2",
    "8.0.0.1",
    "8.0.0.0",
    "7.0.3.2",
    "7.0.3.1",
    "7.0.3.0",
    "7.0.2.1",
    "7.0.2.0",
    "7.0.1.1",
    "7.0.1.0",
    "7.0.0.2",
    "7.0.0.0",
    "6.9.1",
    "6.8.7",
    "6.7.3",
    "6.7.2",
    "6.7.1",
    "6.7",
    "6.5",
    "6.0",
    "5.5",
    "5.1",
    "5.0",
    "4.1",
    "4.0",
)
"""The offered releases, newest first."""

BEFORE = ("2.5u2server", "2.5u2", "2.5")
"""Older ones that a client may still name; it is answered in them."""

_BY_RELEASE: Mapping[str, str] = {
    release: version
    for version, release in VmomiSupport.versionIdMap.items()
    if version.startswith("vim.") and release in {*RELEASES, *BEFORE}
}
NEWEST = _BY_RELEASE[RELEASES[0]]
OLDEST = _BY_RELEASE[RELEASES[-1]]
_ACTION = re.compile(r'"?urn:vim25(?:/([0-9A-Za-z.]{1,32}))?"?')


def negotiate(soap_action: str | None) -> str:
    """Return the version that a client means by its SOAPAction header.

    A release that is not offered counts as the newest (clients that never read the document send
    their own newest one), a header without a release as the oldest.
    """
    match = _ACTION.fullmatch((soap_action or "").strip())
    if match is None or match[1] is None:
        return OLDEST
    return _BY_RELEASE.get(match[1], NEWEST)


def of_release(release: str) -> str:
    """Return the version of a release; one that is not offered counts as the newest."""
    return _BY_RELEASE.get(release, NEWEST)


def release_of(version: str) -> str:
    """Return the release of a version: ``vim.version.v8_0_3_0`` is 8.0.3.0."""
    return str(VmomiSupport.versionIdMap[version])


@cache
def visible(version: str, since: str) -> bool:
    """Whether what exists since ``since`` is part of ``version``."""
    return version == since or since in VmomiSupport.parentMap[version]


@cache
def compatible(name: str, version: str) -> str:
    """Return the data type itself, or its nearest ancestor that ``version`` knows."""
    for step in types.ancestors(name):
        if visible(version, types.data_type(step).version):
            return step
    return "DynamicData"


@cache
def document() -> bytes:
    """Return vimServiceVersions.xml."""
    prior = "".join(f"<version>{release}</version>" for release in RELEASES[1:])
    return (
        '<?xml version="1.0" encoding="UTF-8" ?>\n<namespaces version="1.0"><namespace>'
        f"<name>urn:vim25</name><version>{RELEASES[0]}</version>"
        f"<priorVersions>{prior}</priorVersions></namespace></namespaces>\n"
    ).encode()
