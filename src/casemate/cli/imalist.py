"""The part of ``casemate eventlog`` that shows and replays IMA lists."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from casemate.errors import Finding, FormatError
from casemate.formats.eventlog import PCR_COUNT
from casemate.formats.ima import IMA_PCR, ImaEntry, ImaList
from casemate.formats.imafields import measurement
from casemate.formats.imareplay import replay_ima, wrong_template
from casemate.formats.imatext import looks_like_ima, parse_ima_any
from casemate.formats.text import escape

__all__ = ["banks_of", "looks_like_ima", "parse_ima_any", "review_ima", "rows_of"]

BANKS: Final = ("sha1", "sha256", "sha384")
"""Banks whose PCR value is shown; the list itself does not say which the TPM has."""


def rows_of(listed: ImaList) -> Iterator[dict[str, Any]]:
    """Yield each record as it is shown: plain values, text escaped."""
    for index, entry in enumerate(listed.entries):
        yield {
            "index": index,
            "pcr": entry.pcr,
            "name": escape(entry.template),
            "template_hash": entry.template_hash.hex(),
            "violation": entry.is_violation,
            **_content(entry),
        }


def _content(entry: ImaEntry) -> dict[str, str]:
    try:
        found = measurement(entry)
    except FormatError as error:
        return {"digest": "", "text": f"undecodable: {escape(error.reason)}"}
    return {
        "digest": f"{escape(found.algorithm)}:{found.digest.hex()}",
        "text": escape(found.path.decode("utf-8", "surrogateescape")),
    }


def banks_of(listed: ImaList) -> dict[str, dict[int, bytes]]:
    """Return the PCRs' values in the usual banks, as kernels from 5.8 on extend them."""
    pcrs = sorted({entry.pcr for entry in listed.entries} or {IMA_PCR})
    if pcrs[-1] >= PCR_COUNT:
        raise FormatError(f"IMA list: a record extends PCR {pcrs[-1]}", code="pcr-index")
    return {
        bank: {pcr: replay_ima(listed.entries, bank, pcr=pcr) for pcr in pcrs} for bank in BANKS
    }


def review_ima(listed: ImaList) -> tuple[Finding, ...]:
    """Return what is wrong with a list by itself."""
    wrong = wrong_template(listed.entries, listed.algorithm)
    if wrong is None:
        return ()
    return (
        Finding(
            "ima-template",
            f"record {wrong}",
            f"the template hash of record {wrong} is not that of its data",
            "Get the list again from the host; a list that was changed must not be used.",
        ),
    )
