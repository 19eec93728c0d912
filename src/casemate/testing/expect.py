"""What tests ask of refusals: a stable code, a sentence, and a remedy."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from casemate.errors import CasemateError, Finding


def refused(call: Callable[[], object]) -> str:
    """Return the code with which something is refused."""
    found: CasemateError | None = None
    try:
        call()
    except CasemateError as error:
        found = error
    assert found is not None, "it was accepted"
    assert found.reason
    assert found.remedy
    return found.code


def codes(findings: Iterable[Finding]) -> set[str]:
    """Return the codes of findings."""
    return {finding.code for finding in findings}
