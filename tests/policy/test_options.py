"""Options that the boot decides."""

from __future__ import annotations

import pytest

from casemate.policy.options import API_COMPATIBILITY, booted_with


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
