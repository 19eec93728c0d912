"""The first thing that the kernel and hostd run: their walls, then themselves.

casemate-python -I -B -m casemate.kernel.enter PLAN ARGUMENTS...
"""

from __future__ import annotations

import gc
import runpy
import sys

from casemate.errors import ArgumentError
from casemate.kernel.confine import enter
from casemate.machine.processplan import plan_named

GARBAGE = 20_000
"""Objects made before garbage is looked for, with Python's 700 a tenth of every start goes there;
what lies about unfound is a few MiB at most."""


def main() -> None:
    """Run the module of the plan; ends as that module ends."""
    name = sys.argv.pop(1) if len(sys.argv) > 1 else ""
    plan = plan_named(name)
    if plan is None or not plan.module:
        raise ArgumentError(f"there is no process {name!r}", argument="plan")
    gc.set_threshold(GARBAGE)
    enter(plan)
    runpy.run_module(plan.module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
