"""What all tests share: the public corpus, and the rule that nothing outside is needed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# How long an example takes says something about the machine's load, not about the code.
settings.register_profile("load", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("load")

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def corpus() -> Path:
    """Return the directory of public logs, quotes and vectors; skip by name where it is absent."""
    place = Path(os.environ.get("CASEMATE_CORPUS", REPOSITORY.parent / "shared" / "data"))
    if not place.is_dir():
        pytest.skip("public corpus absent: set CASEMATE_CORPUS to run this test")
    return place


@pytest.fixture
def root_only() -> None:
    """Skip by name where the test needs root and is not."""
    if os.geteuid() != 0:
        pytest.skip("needs root: swtpm, mounts, namespaces")
