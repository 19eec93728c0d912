"""A child process to try dangerous things in, with what it returned or raised."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from casemate.kernel.sys.mounts import make_private
from casemate.kernel.sys.namespaces import Namespace, unshare


@pytest.fixture
def in_child(root_only: None) -> Callable[..., Any]:  # noqa: ARG001 (asked for its skip)
    """Run a function in a forked child with mounts of its own; give its result."""

    def run(body: Callable[[], Any], *, namespaces: Namespace = Namespace.MOUNT) -> Any:
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                unshare(namespaces)
                make_private()
                outcome = (True, body())
            except BaseException as error:  # noqa: BLE001 (whatever it is, the parent shall see it)
                outcome = (False, repr(error))
            os.write(writer, pickle.dumps(outcome))
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader, "rb") as stream:
            data = stream.read()
        os.waitpid(pid, 0)
        good, value = pickle.loads(data)
        assert good, value
        return value

    return run
