"""What a suspended VM keeps of its nonpersistent disks is what its cell wrote, and nothing else."""

from __future__ import annotations

import os

import pytest

from casemate.errors import HostError
from casemate.kernel.cells import scratch
from casemate.kernel.cells.directory import VmDirectory


def test_a_cell_that_names_another_file_has_nothing_copied(tmp_path):
    with VmDirectory(tmp_path) as directory:
        secret = tmp_path / "secret"
        secret.write_text("secret")
        pipe, end = os.pipe()
        os.close(end)
        for held in (os.open(secret, os.O_RDONLY), os.open(tmp_path, os.O_RDONLY), pipe):
            with pytest.raises(HostError) as caught:
                scratch.keep(directory, os.getpid(), held, "a.REDO")
            os.close(held)
            assert caught.value.code == "scratch-foreign"
        with pytest.raises(HostError):
            scratch.keep(directory, os.getpid(), 1 << 20, "a.REDO")
        assert directory.names() == ("secret",)
        held = os.open(tmp_path, os.O_RDWR | os.O_TMPFILE)
        os.write(held, b"written")
        scratch.keep(directory, os.getpid(), held, "a.REDO")
        os.close(held)
        assert (tmp_path / "a.REDO").read_bytes() == b"written"
