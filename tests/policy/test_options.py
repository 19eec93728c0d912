"""Options that the boot decides."""

from __future__ import annotations

import pytest

from casemate.errors import ArgumentError
from casemate.policy.options import API_COMPATIBILITY, SHARE_FORCE_SALTING, booted_with, check


@pytest.mark.parametrize(
    ("command_line", "value"),
    [
        ("", "FALSE"),
        ("apiCompatibility=TRUE", "TRUE"),
        ("bootUUID=1 apiCompatibility=true quiet", "TRUE"),
        ("apiCompatibility", "FALSE"),
        ("apiCompatibility=1", "FALSE"),
        ("xapiCompatibility=TRUE", "FALSE"),
        ("apiCompatibility=TRUE apiCompatibility=FALSE", "FALSE"),
    ],
)
def test_compatibility_is_off_unless_the_command_line_says_so(
    command_line: str, value: str
) -> None:
    assert booted_with(command_line) == {API_COMPATIBILITY: value}


def test_pages_are_never_shared_between_vms_and_the_option_cannot_pretend_otherwise() -> None:
    assert check(SHARE_FORCE_SALTING, "2") == "2"
    for lower in ("0", "1", "3"):
        with pytest.raises(ArgumentError, match="is 2: memory of one VM is never merged"):
            check(SHARE_FORCE_SALTING, lower)
