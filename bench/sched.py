"""Entitlements of whole pool trees: time against size, and a linear program as the oracle.

Usage: python bench/sched.py [--json]

The trees have one pool for ten VMs, up to seven levels deep, with reservations, limits, demand and
shares drawn at random (fixed seed). Times are the best of several runs of the whole division; the
tree's own layout is made once per change of the tree and timed apart. The oracle (HiGHS through
scipy) solves the same siblings' problem, level by level, on the smaller trees.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections.abc import Callable

from scipy.optimize import linprog

from casemate.sched.admission import PowerOn, admit
from casemate.sched.divvy import Division, divide_cpu
from casemate.sched.ledger import accounts
from casemate.sched.tax import MemoryUse, divide_memory
from casemate.sched.tree import MAX_DEPTH, ROOT, UNLIMITED, Allocation, Pool, Tree, Vm

SIZES = (100, 300, 1000, 3000, 10_000)
ORACLE_UP_TO = 1000
GOAL_MS = 50
WIDTH = 50


def random_tree(count: int) -> tuple[Tree, dict[str, int], dict[str, MemoryUse]]:
    chance = random.Random(count)
    depth = {ROOT: 1}
    pools = []
    for number in range(count // 10):
        parent = chance.choice(
            [p for p in chance.choices(list(depth), k=8) if depth[p] < MAX_DEPTH] or [ROOT]
        )
        name = f"pool-{number}"
        depth[name] = depth[parent] + 1
        limit = chance.choice([UNLIMITED, UNLIMITED, 20_000])
        shares = chance.choice([2000, 4000, 8000])
        given = Allocation(chance.choice([0, 0, 500]), limit, shares, chance.random() < 0.7)
        pools.append(Pool(name, parent, given))
    places = list(depth)
    vms = []
    for number in range(count):
        limit = chance.choice([UNLIMITED, UNLIMITED, UNLIMITED, 1500])
        shares = chance.choice([500, 1000, 2000, 4000])
        given = Allocation(chance.choice([0, 0, 0, 300]), limit, shares)
        vms.append(Vm(f"vm-{number}", chance.choice(places), given, chance.choice([2000, 4000])))
    demand = {vm.id: chance.randint(0, vm.size) for vm in vms}
    use = {
        vm.id: MemoryUse(chance.randint(0, vm.size // 2), chance.randint(0, vm.size)) for vm in vms
    }
    return Tree.of(1000 * count, pools, vms), demand, use


def best(work: Callable[[], object], runs: int = 7) -> float:
    """Return the least of several times, in milliseconds."""
    spent = []
    for _ in range(runs):
        started = time.perf_counter()
        work()
        spent.append(time.perf_counter() - started)
    return min(spent) * 1000


def largest_difference(division: Division) -> tuple[float, int]:
    """Compare every contended pool with the oracle; return the worst difference and how many."""
    worst, compared = 0.0, 0
    for pool, group in enumerate(division.tree.layout.children):
        floors = [division.floors[n] for n in group]
        ceilings = [division.ceilings[n] for n in group]
        weights = [division.weights[n] for n in group]
        budget = division.amounts[pool]
        if sum(floors) < budget < sum(ceilings):
            expected = linear_program(floors, ceilings, weights, budget)
            differences = (
                abs(division.amounts[n] - e) for n, e in zip(group, expected, strict=True)
            )
            worst = max(worst, *differences)
            compared += 1
    return worst, compared


def linear_program(
    floors: list[int], ceilings: list[int], weights: list[int], budget: int
) -> list[float]:
    """Max-min of amount per share: maximise the least, fix who would pass its ceiling, repeat."""
    count = len(weights)
    fixed: dict[int, float] = {}
    level = 0.0
    while len(fixed) < count:
        free = [n for n in range(count) if n not in fixed]
        rows = [[0.0] * (count + 1) for _ in free]
        for row, n in zip(rows, free, strict=True):
            row[n], row[-1] = -1.0, float(weights[n])
        result = linprog(
            [0.0] * count + [-1.0],
            A_ub=[*rows, [1.0] * count + [0.0]],
            b_ub=[0.0] * len(free) + [float(budget)],
            bounds=[(fixed.get(n, floors[n]), fixed.get(n)) for n in range(count)] + [(0, None)],
            method="highs",
        )
        level = result.x[-1]
        beyond = [n for n in free if level * weights[n] > ceilings[n] + 1e-6]
        if not beyond:
            break
        fixed |= {n: float(ceilings[n]) for n in beyond}
    return [fixed.get(n, max(floors[n], level * weights[n])) for n in range(count)]


def measure(count: int) -> dict[str, float]:
    tree, demand, use = random_tree(count)
    started = time.perf_counter()
    layout = tree.layout
    row = {
        "vms": count,
        "pools": layout.pools,
        "layout_ms": (time.perf_counter() - started) * 1000,
        "cpu_ms": best(lambda: divide_cpu(tree, demand)),
        "memory_ms": best(lambda: divide_memory(tree, use)),
        "accounts_ms": best(lambda: accounts(tree)),
    }
    wide = tree.with_capacity(1 << 40)
    vm = Vm("new", ROOT, Allocation(100), 1000)
    row["admit_ms"] = best(lambda: admit(wide, PowerOn(vm), "cpu"))
    if count <= ORACLE_UP_TO:
        started = time.perf_counter()
        row["oracle_difference"], row["oracle_pools"] = largest_difference(divide_cpu(tree, demand))
        row["oracle_ms"] = (time.perf_counter() - started) * 1000
    return row


def flat(count: int) -> float:
    """Time the worst shape: every VM in the root pool, so one sort over all of them."""
    tree, demand, _ = random_tree(count)
    alone = Tree.of(tree.capacity, [], [vm._replace(pool=ROOT) for vm in tree.vms.values()])
    divide_cpu(alone, demand)
    return best(lambda: divide_cpu(alone, demand))


def plot(rows: list[dict[str, float]]) -> None:
    print("\ntime per VM and log2(VMs), relative to the smallest tree (flat: n log n)")
    unit = rows[0]["cpu_ms"] / (rows[0]["vms"] * math.log2(rows[0]["vms"]))
    for row in rows:
        ratio = row["cpu_ms"] / (row["vms"] * math.log2(row["vms"])) / unit
        print(f"{row['vms']:>7} {'#' * round(ratio * WIDTH / 2)} {ratio:.2f}")
    print("\nmilliseconds (logarithmic)")
    least = math.log10(rows[0]["cpu_ms"])
    span = math.log10(rows[-1]["cpu_ms"]) - least
    for row in rows:
        length = round((math.log10(row["cpu_ms"]) - least) / span * WIDTH) + 1
        print(f"{row['vms']:>7} {'#' * length} {row['cpu_ms']:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = [measure(count) for count in SIZES]
    if options.json:
        print(json.dumps(rows, indent=2))
        return
    heads = ("cpu ms", "mem ms", "layout", "accounts", "admit")
    print(f"{'VMs':>7}{'pools':>7}" + "".join(f"{head:>9}" for head in heads) + "  oracle")
    for row in rows:
        oracle = "-"
        if "oracle_ms" in row:
            oracle = (
                f"differs by {row['oracle_difference']:.2f} units at most in "
                f"{row['oracle_pools']:.0f} pools, {row['oracle_ms'] / row['cpu_ms']:.0f}x slower"
            )
        print(
            f"{row['vms']:>7}{row['pools']:>7}{row['cpu_ms']:>9.2f}{row['memory_ms']:>9.2f}"
            f"{row['layout_ms']:>9.2f}{row['accounts_ms']:>9.2f}{row['admit_ms']:>9.2f}  {oracle}"
        )
    print(f"{SIZES[-1]} siblings in one pool: {flat(SIZES[-1]):.2f} ms")
    verdict = "met" if max(rows[-1]["cpu_ms"], rows[-1]["memory_ms"]) <= GOAL_MS else "MISSED"
    print(f"goal for {SIZES[-1]} VMs: {GOAL_MS} ms, {verdict}")
    plot(rows)


if __name__ == "__main__":
    main()
