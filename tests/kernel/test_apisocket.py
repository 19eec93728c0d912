"""The API's port is opened before anything is built or booted."""

from __future__ import annotations

import errno
import os

import pytest

from casemate.errors import HostError
from casemate.kernel.apisocket import listen


def test_a_port_that_is_taken_is_told_with_what_to_do() -> None:
    with listen(0) as first:
        port = first.getsockname()[1]
        with pytest.raises(HostError, match=os.strerror(errno.EADDRINUSE)) as refused:
            listen(port)
        assert str(port) in refused.value.reason
        assert "--port" in refused.value.remedy
    listen(port).close()
