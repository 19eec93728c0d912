"""Run hostd: ``python -m casemate.hostd``."""

import sys

from casemate.hostd.main import main

sys.exit(main())
