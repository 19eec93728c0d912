"""THREATS.md prints the complete interface of the privileged process: this keeps it true."""

from __future__ import annotations

from tests.conftest import REPOSITORY

from casemate.calls.vocabulary import REQUESTS


def test_threats_lists_exactly_the_requests_that_the_kernel_accepts() -> None:
    text = (REPOSITORY / "THREATS.md").read_text()
    listed = text.split("<!-- calls -->")[1].split("<!-- /calls -->")[0]
    rows = [
        f"| `{kind.__name__}` | {kind.privilege} | {(kind.__doc__ or '').splitlines()[0]} |"
        for kind in REQUESTS
    ]
    assert listed.strip().splitlines()[2:] == rows
