"""The page docs/api.md says exactly what the registry says."""

from __future__ import annotations

import json

import pytest
from tests.conftest import REPOSITORY

from casemate.cli.main import main
from casemate.hostd.coverage import names, page
from casemate.hostd.methods.table import REGISTRY
from casemate.hostd.registry import Ring
from casemate.vim25 import types


def test_the_page_is_what_the_registry_says() -> None:
    assert (REPOSITORY / "docs/api.md").read_text() == page(REGISTRY)


def test_less_than_a_fifth_of_the_api_is_declared_at_all() -> None:
    assert len(list(REGISTRY)) < len(names()) / 5


def test_ring_c_is_off_unless_switched_on() -> None:
    compatibility = [one for one in REGISTRY if one.ring is Ring.COMPATIBILITY]
    assert compatibility
    for one in compatibility:
        assert REGISTRY.offered(one.name) is None
        assert REGISTRY.offered(one.name, compatibility=True) is one


def test_a_method_without_a_published_privilege_states_its_rule_or_why_it_is_refused() -> None:
    for one in REGISTRY:
        if types.method(one.name).privilege is None:
            assert one.rule or one.lacking or one.owner in OWN, one.name


OWN = {
    "PropertyFilter",
    "ListView",
    "ManagedObject",
    "HistoryCollector",
    "EventHistoryCollector",
    "TaskHistoryCollector",
}
"""Objects that belong to the session itself."""


def test_the_list_names_every_method_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["api", "list", "--all", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    listed = [one["method"] for one in (*told["declared"], *told["refused"])]
    assert sorted(listed) == list(names())


def test_the_list_is_readable_by_people(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["api", "list"]) == 0
    told = capsys.readouterr().out
    assert "PowerOnVM_Task" in told
    assert "off unless the host is booted with apiCompatibility=TRUE" in told
