"""A denied system call stays denied, also for programs started later."""

from __future__ import annotations

import pytest

from casemate.kernel.sys.process import no_new_privileges
from casemate.kernel.sys.seccomp import deny

pytestmark = pytest.mark.host


def test_a_filtered_call_is_refused_and_unknown_names_are_passed_over(in_child, tmp_path):
    def attack() -> str:
        no_new_privileges()
        deny(["mkdir", "mkdirat", "no_such_call_anywhere"])
        try:
            (tmp_path / "made").mkdir()
        except PermissionError:
            return "refused"
        return "made"

    assert in_child(attack) == "refused"
