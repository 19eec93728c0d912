"""Published and worked examples, by the names they have in the public vectors."""

from __future__ import annotations

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest

from casemate.errors import AdmissionError, ArgumentError
from casemate.sched.admission import CreatePool, PowerOn, Reconfigure, admit
from casemate.sched.divvy import divide_cpu, divide_static
from casemate.sched.ledger import accounts
from casemate.sched.memory import GIB, MIB, VSPHERE, MemoryState, minimum_free, swap_size, threshold
from casemate.sched.shares import SharesLevel, cpu_shares, memory_shares
from casemate.sched.tax import MemoryUse, adjusted_price, divide_memory, guarantees
from casemate.sched.tree import ROOT, UNLIMITED, Allocation, Pool, Tree, Vm

UNIT = 10_000
"""Vectors are in percent, GHz or GB; the trees count in ten thousandths of that."""
BIG = 1 << 40


def vm(
    name: str, shares: int, pool: str = ROOT, *, size: float = BIG, low: float = 0, high: float = -1
) -> Vm:
    limit = UNLIMITED if high < 0 else int(high * UNIT)
    return Vm(name, pool, Allocation(int(low * UNIT), limit, shares), int(size * UNIT))


def pool(
    name: str,
    shares: int,
    parent: str = ROOT,
    *,
    low: float = 0,
    high: float = -1,
    expandable: bool = False,
) -> Pool:
    limit = UNLIMITED if high < 0 else int(high * UNIT)
    return Pool(name, parent, Allocation(int(low * UNIT), limit, shares, expandable))


def vms(prefix: str, count: int, shares: int, into: str, **more: float) -> list[Vm]:
    return [vm(f"{prefix}{n}", shares, into, **more) for n in range(count)]


def cpu(
    capacity: float,
    pools: list[Pool],
    running: list[Vm],
    wanted: tuple[str, ...],
    demand: dict[str, float] | None = None,
    *,
    scale: bool = False,
) -> list[float]:
    tree = Tree.of(int(capacity * UNIT), pools, running, scale_descendants=scale)
    division = divide_cpu(tree, {k: int(v * UNIT) for k, v in (demand or {}).items()})
    return [division[name] / UNIT for name in wanted]


def three_vms(third: float) -> list[float]:
    running = [vm("1", 1000), vm("2", 1000, low=2250), vm("3", 2000)]
    return cpu(6000, [], running, ("1", "2", "3"), {"1": 500, "3": third})


def gold_bronze() -> list[float]:
    pools = [pool("gold", 4), pool("bronze", 1)]
    running = [vm("g", 1000, "gold"), vm("b", 1000, "bronze")]
    return cpu(200, pools, running, ("gold", "bronze"), {"g": 180, "b": 25})


def pie(*, scale: bool = False, third: str = "") -> list[float]:
    pools = [pool("high", 8000), pool("normal", 4000)]
    running = vms("h", 6, 2000, "high") + vms("n", 2, 2000, "normal")
    names: tuple[str, ...] = ("h0", "n0") if scale else ("high", "normal", "h0", "n0")
    if third:
        pools.append(pool("third", {"high": 8000, "low": 2000}[third]))
        running += vms("t", 2, 2000, "third")
        names += ("t0",)
    capacity = 120 if third == "low" else 100
    return cpu(capacity, pools, running, names, scale=scale)


def sibling(inside: int, demand: dict[str, float], names: tuple[str, ...]) -> list[float]:
    running = [vm("VM01", 2000), *vms("VM1", inside, 2000, "RP")]
    return cpu(100, [pool("RP", 8000)], running, names, demand)


def mix(extra: int) -> list[float]:
    running = [vm("a", 1000, "P"), vm("b", 2000, "P"), vm("v", 2000), *vms("x", extra, 1000, ROOT)]
    names = ("P", "v", "x0", "a") if extra else ("P", "v", "a")
    return cpu(100, [pool("P", 4000)], running, names)


def yellow_bricks() -> list[float]:
    pools = [pool("a", 4000), pool("b", 8000)]
    running = vms("x", 4, 1000, "a") + vms("y", 24, 1000, "b")
    return cpu(12_000, pools, running, ("a", "b", "x0", "y0"))


def pie_formula() -> list[float]:
    running = vms("x", 7, 1000, "a") + vms("y", 1, 1000, "b")
    return cpu(1740, [pool("a", 1680), pool("b", 60)], running, ("x0", "y0"))


def console() -> list[float]:
    running = [vm("a", 3000, low=20, high=50), vm("b", 1000, low=30, high=100)]
    return cpu(100, [], running, ("a", "b"))


def storage() -> list[float]:
    running = [
        vm("1", 1000, "A"),
        vm("2", 2500, "A"),
        vm("3", 500, "B"),
        vm("4", 1000, "B", high=2000),
    ]
    return cpu(8000, [pool("A", 3500), pool("B", 1500)], running, ("1", "2", "3", "4"), {"3": 10})


def divvy67() -> list[float]:
    tree = Tree.of(100 * UNIT, [pool("P", 1000, low=10)], vms("v", 4, 1000, "P", size=4))
    got = guarantees(tree, {f"v{n}": MemoryUse(UNIT, UNIT) for n in range(4)})
    return [got[f"v{n}"] / UNIT for n in range(4)]


def admitted(tree: Tree, name: str, into: str, amount: int) -> Tree | AdmissionError:
    try:
        return admit(tree, PowerOn(Vm(name, into, Allocation(amount), BIG)), "cpu")
    except AdmissionError as error:
        return error


def mother_and_kid(inside_mother: int) -> list[float]:
    first = [
        Vm(f"m{n}", "mom", Allocation(size), BIG)
        for n, size in enumerate(range(1, inside_mother + 1))
    ]
    tree = Tree.of(
        100,
        [Pool("mom", ROOT, Allocation(6)), Pool("kid", "mom", Allocation(2, expandable=True))],
        first,
    )
    free = accounts(tree)["mom"].unreserved
    one = admitted(tree, "k1", "kid", 2)
    assert isinstance(one, Tree)
    two = admitted(one, "k2", "kid", 2)
    if isinstance(two, AdmissionError):
        assert two.resource == "cpu"
        return [free, 1, two.available, two.requested]
    return [free, 1, 1, accounts(two)["mom"].unreserved]


def valid_cluster(capacity: int, given: dict[str, tuple[int, bool, tuple[int, ...]]]) -> Tree:
    tree = Tree.of(capacity)
    for name, (reservation, expandable, _) in given.items():
        tree = admit(
            tree,
            CreatePool(Pool(name, ROOT, Allocation(reservation, expandable=expandable))),
            "cpu",
        )
    for name, (_, _, inside) in given.items():
        for number, amount in enumerate(inside):
            running = Vm(f"{name}-{number}", name, Allocation(amount), BIG)
            tree = admit(tree, PowerOn(running), "cpu")
    return tree


FIXED = {"rp1": (4, False, (2, 2)), "rp2": (4, False, (1, 2)), "rp3": (3, False, (3,))}
EXPANDABLE = {"rp1": (4, True, (2, 2, 2)), "rp2": (5, False, (1, 2)), "rp3": (5, True, (3, 2))}


def cluster(capacity: int, given: dict[str, tuple[int, bool, tuple[int, ...]]]) -> list[float]:
    figures = accounts(valid_cluster(capacity, given))
    result = [figures[ROOT].used, figures[ROOT].unreserved]
    for name in given:
        result += [figures[name].used, figures[name].unreserved]
    return [float(value) for value in result]


def expandable_limit() -> list[float]:
    tree = Tree.of(
        100,
        [
            Pool("A", ROOT, Allocation(50, expandable=True)),
            Pool("B", "A", Allocation(30, 35, expandable=True)),
            Pool("C", "B", Allocation(20, expandable=True)),
        ],
        [Vm("own", "B", Allocation(10), BIG), Vm("c", "C", Allocation(20), BIG)],
    )
    refused = admitted(tree, "more", "C", 10)
    assert isinstance(refused, AdmissionError)
    return [0, float(isinstance(admitted(tree, "more", "C", 5), Tree)), refused.available]


def expandable_chain() -> list[float]:
    tree = Tree.of(
        100,
        [
            Pool("A", ROOT, Allocation(50, expandable=True)),
            Pool("B", "A", Allocation(30, expandable=True)),
            Pool("C", "B", Allocation(20, expandable=True)),
        ],
    )
    before = accounts(tree)
    for number in range(5):
        tree = admit(tree, PowerOn(Vm(f"v{number}", "C", Allocation(5), BIG)), "memory")
    own = [float(before[name].own_unreserved) for name in (ROOT, "A", "B", "C")]
    return [*own, accounts(tree)["B"].own_unreserved]


def reconfigure() -> list[float]:
    tree = valid_cluster(21, EXPANDABLE)
    attempts = [
        ("rp1", Allocation(6, expandable=True)),
        ("rp1", Allocation(11, expandable=True)),
        ("rp1", Allocation(12, expandable=True)),
        ("rp1", Allocation(4)),
        ("rp1", Allocation(6)),
        ("rp2", Allocation(2)),
        ("rp2", Allocation(3)),
        ("rp2", Allocation(2, 2)),
        ("rp2", Allocation(5, 4)),
    ]
    result = []
    for name, allocation in attempts:
        try:
            admit(tree, Reconfigure(name, allocation), "cpu")
        except (AdmissionError, ArgumentError):
            result.append(0.0)
        else:
            result.append(1.0)
    return result


def minfree(gib: int) -> list[float]:
    return [minimum_free(gib * GIB) / MIB]


def thresholds() -> list[float]:
    least = minimum_free(96 * GIB)
    return [
        threshold(least, state) / MIB
        for state in (MemoryState.SOFT, MemoryState.HARD, MemoryState.LOW)
    ]


def prices() -> list[float]:
    cases = [
        (6000, 4000, "0.25", 80),
        (2000, 2000, "0.85", 80),
        (6000, 4000, "0.25", 0),
        (2000, 2000, "0.85", 0),
    ]
    return [float(adjusted_price(s, p, Fraction(f), tax)) for s, p, f, tax in cases]


def idle_pair(capacity: float, active: tuple[float, float], size: float, tax: int) -> list[float]:
    tree = Tree.of(int(capacity * UNIT), [], [vm("1", 1000, size=size), vm("2", 1000, size=size)])
    use = {
        name: MemoryUse(int(part * UNIT), int(size * UNIT))
        for name, part in zip(("1", "2"), active, strict=True)
    }
    division = divide_memory(tree, use, tax=tax)
    return [division["1"] / UNIT, division["2"] / UNIT]


def price_difference() -> list[float]:
    one, two = (Fraction(round(amount * 10), 10) for amount in idle_pair(400, (64, 300), 512, 75))
    return [
        float(
            adjusted_price(1000, 1, 64 / one, 75) / one
            - adjusted_price(1000, 1, min(Fraction(1), 300 / two), 75) / two
        )
    ]


def overheads() -> list[float]:
    return [
        float(VSPHERE.estimate(cpus, mib))
        for mib in (256, 1024, 4096, 16384)
        for cpus in (1, 2, 4, 8)
    ]


def defaults() -> list[float]:
    low, normal, high = SharesLevel.LOW, SharesLevel.NORMAL, SharesLevel.HIGH
    values = [cpu_shares(normal, 0, 2), memory_shares(normal, 0, 1024)]
    values += [cpu_shares(level, 0) for level in (low, normal, high)]
    values += [memory_shares(level, 0) for level in (low, normal, high)]
    values += [
        cpu_shares(high, 0, 8),
        memory_shares(high, 0, 65_536),
        memory_shares(low, 0, 65_536),
    ]
    return [float(value) for value in values]


VECTORS: dict[str, Callable[[], list[float]]] = {
    "cpu-mhzpershare-1": lambda: three_vms(BIG),
    "cpu-mhzpershare-2": lambda: three_vms(2000),
    "rp-gold-bronze": gold_bronze,
    "pie-paradox": pie,
    "scalable-on": lambda: pie(scale=True),
    "scalable-high2": lambda: pie(scale=True, third="high"),
    "scalable-high-normal-low": lambda: pie(scale=True, third="low"),
    "sibling-a": lambda: sibling(2, {}, ("VM01", "RP", "VM10", "VM11")),
    "sibling-b": lambda: sibling(5, {}, ("VM01", "VM10", "VM14")),
    "sibling-c (VM01 at half load: each RP VM +2)": lambda: sibling(
        5, {"VM01": 10}, ("VM01", "VM10", "VM14")
    ),
    "sibling-d (VM02-04 idle)": lambda: sibling(
        5, {"VM12": 0, "VM13": 0, "VM14": 0}, ("VM01", "VM10", "VM11", "VM12")
    ),
    "mix-1": lambda: mix(0),
    "mix-2": lambda: mix(2),
    "yellowbricks-2020": yellow_bricks,
    "pie-formula": pie_formula,
    "esx2-console": console,
    "sioc-scenario3": storage,
    "divvy67-new": divvy67,
    "admission-mom-kid-1": lambda: mother_and_kid(1),
    "admission-mom-kid-2": lambda: mother_and_kid(2),
    "cluster-fixed": lambda: cluster(12, FIXED),
    "cluster-expandable": lambda: cluster(16, EXPANDABLE),
    "expandable-limit": expandable_limit,
    "expandable-chain": expandable_chain,
    "minfree-28GB": lambda: minfree(28),
    "minfree-96GB": lambda: minfree(96),
    "minfree-100GB": lambda: minfree(100),
    "minfree-128GB": lambda: minfree(128),
    "minfree-96-thresholds": thresholds,
    "idletax-rho": prices,
    "idletax-fig7-tau0": lambda: idle_pair(358, (20, 256), 256, 0),
    "idletax-fig7-tau75": lambda: idle_pair(358, (20, 256), 256, 75),
    "idletax-2": lambda: idle_pair(400, (64, 300), 512, 75),
    "idletax-2-rho": price_difference,
    "reconfig": reconfigure,
    "overhead-fit": overheads,
    "share-defaults": defaults,
    "swapfile": lambda: [float(swap_size(2048, 1024))],
}


@pytest.fixture(scope="module")
def published(corpus: Path) -> dict[str, dict[str, object]]:
    file = corpus / "scheduler_vectors.json"
    if not file.is_file():
        pytest.skip("public corpus absent: scheduler_vectors.json")
    return {entry["id"]: entry for entry in json.loads(file.read_text())}


@pytest.mark.parametrize("name", VECTORS)
def test_vector(name, published):
    entry = published[name]
    tolerance = max(float(entry["tol"]), 2 / UNIT)
    assert VECTORS[name]() == pytest.approx(entry["expected"], abs=tolerance, rel=0)


def test_every_public_vector_is_covered(published):
    assert published.keys() == VECTORS.keys()


@pytest.mark.parametrize(
    ("gib", "mib"), [(28, 901.12), (96, 1597.44), (100, 1638.40), (128, 1925.12)]
)
def test_the_sliding_scale_is_the_formula_not_the_misprints(gib, mib):
    assert minimum_free(gib * GIB) == int(mib * MIB)


def test_static_entitlement_ignores_demand():
    tree = Tree.of(100 * UNIT, [], [vm("a", 1000), vm("b", 3000)])
    division = divide_static(tree)
    assert [division["a"], division["b"]] == [25 * UNIT, 75 * UNIT]
