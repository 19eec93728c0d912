"""A home whose image was built from older sources is told, and one from elsewhere is not."""

from __future__ import annotations

from casemate.image import provenance
from casemate.image.provenance import PLACE, built_from_others, note_sources


def test_only_sources_that_changed_since_the_last_build_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "sources", lambda: iter([("a.py", b"1"), ("b.py", b"2")]))
    assert not built_from_others(tmp_path)
    (tmp_path / PLACE).parent.mkdir(parents=True)
    note_sources(tmp_path)
    assert not built_from_others(tmp_path)
    for changed in ([("a.py", b"1")], [("a.py", b"1"), ("b.py", b"3")], [("a.py", b"12")]):
        monkeypatch.setattr(provenance, "sources", lambda files=changed: iter(files))
        assert built_from_others(tmp_path)
