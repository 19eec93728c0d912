"""Shares: levels, custom values, and pools that weigh what runs in them."""

from __future__ import annotations

import pytest

from casemate.errors import AdmissionError, ArgumentError, LimitError
from casemate.sched.admission import Move, admit
from casemate.sched.divvy import divide_static
from casemate.sched.shares import SharesLevel, cpu_shares, disk_shares, memory_shares
from casemate.sched.tree import MAX_POOLS, ROOT, Allocation, Pool, Tree, Vm
from casemate.sched.weights import sibling_weights


@pytest.mark.parametrize("level", [SharesLevel.LOW, SharesLevel.NORMAL, SharesLevel.HIGH])
def test_a_stated_number_counts_with_custom_alone(level):
    assert cpu_shares(level, 7, 2) == cpu_shares(level, 0, 2) != 7
    assert cpu_shares(SharesLevel.CUSTOM, 7, 2) == 7
    assert memory_shares(SharesLevel.CUSTOM, 7, 1024) == 7
    assert disk_shares(SharesLevel.CUSTOM, 7) == 7


def test_disk_levels():
    assert [disk_shares(level, 0) for level in list(SharesLevel)[:3]] == [500, 1000, 2000]


def test_negative_shares_are_refused():
    with pytest.raises(ArgumentError):
        cpu_shares(SharesLevel.CUSTOM, -1)


def weight_of(tree, node):
    return sibling_weights(tree)[tree.layout.numbers[node]]


def test_scaling_reaches_every_pool_below_and_leaves_others_alone():
    pools = [
        Pool("plain", ROOT, Allocation(shares=4000)),
        Pool("scaled", ROOT, Allocation(shares=4000, scale_descendants=True)),
        Pool("low", "scaled", Allocation(shares=2000)),
        Pool("high", "scaled", Allocation(shares=8000)),
        Pool("deep", "high", Allocation(shares=4000)),
    ]
    vms = [Vm(f"v{n}", "deep", Allocation(shares=1000), 10) for n in range(3)]
    vms.append(Vm("w", "low", Allocation(shares=1000), 10))
    tree = Tree.of(100, pools, vms)
    assert weight_of(tree, "plain") == weight_of(tree, "scaled")
    assert weight_of(tree, "high") == 4 * 3 * weight_of(tree, "low")


def test_scaled_pools_with_odd_custom_shares_stay_exact():
    pools = [
        Pool("a", ROOT, Allocation(shares=3)),
        Pool("b", ROOT, Allocation(shares=7)),
        Pool("none", ROOT, Allocation(shares=0)),
    ]
    vms = [Vm(p, f"{p[1:]}", Allocation(shares=5), 10_000) for p in ("va", "vb")]
    vms += [Vm("beside", ROOT, Allocation(shares=5), 10_000)]
    tree = Tree.of(1300, pools, vms, scale_descendants=True)
    assert divide_static(tree).vms() == {"va": 300, "vb": 700, "beside": 300}


def test_two_nodes_cannot_share_an_id():
    for pools in ([Pool(ROOT, ROOT, Allocation())], [Pool("v", ROOT, Allocation())]):
        with pytest.raises(ArgumentError):
            Tree.of(10, pools, [Vm("v", ROOT, Allocation(), 1)])


def test_more_pools_than_a_host_may_have_are_refused():
    with pytest.raises(LimitError):
        Tree.of(10, [Pool(f"p{n}", ROOT, Allocation()) for n in range(MAX_POOLS + 1)])


def test_a_running_vm_moves_only_where_it_fits():
    pools = [Pool("small", ROOT, Allocation(5)), Pool("large", ROOT, Allocation(10))]
    tree = Tree.of(100, pools, [Vm("v", ROOT, Allocation(8), 10, 1)])
    assert admit(tree, Move("v", "large"), "memory").parent("v") == "large"
    with pytest.raises(AdmissionError, match="asks for 9"):
        admit(tree, Move("v", "small"), "memory")
