"""``casemate pool``: the tree of resource pools; why a VM gets what it gets, and what if."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Final

from rich.table import Table

from casemate.calls import messages as m
from casemate.calls import pools as c
from casemate.cli.calls import Calls
from casemate.cli.terminal import PlainConsole, styled
from casemate.errors import ArgumentError, NotFoundError
from casemate.kernel.home import find_home
from casemate.machine.facts import Allocation, Fact, PoolFact, PowerState, VmFact

ROOT: Final = "ha-root-pool"
_MIB: Final = 1 << 20
_LEVELS: Final = ("low", "normal", "high")
_WHY: Final = "command line"
_REFUSED: Final = 1


@dataclass(frozen=True, slots=True)
class Inventory:
    """The pools and VMs of the host, and finding them by name."""

    pools: dict[str, PoolFact]
    vms: dict[str, VmFact]

    @classmethod
    def of(cls, facts: tuple[Fact, ...]) -> Inventory:
        """Collect pools and VMs."""
        return cls(
            {fact.pool: fact for fact in facts if isinstance(fact, PoolFact)},
            {fact.vm: fact for fact in facts if isinstance(fact, VmFact)},
        )

    def pool(self, wanted: str) -> str:
        """Return the id of a pool named by id, name or path (``/web/front``)."""
        found = [
            pool
            for pool, fact in self.pools.items()
            if wanted in (pool, fact.name, self.path(pool)) or (wanted == "/" and not fact.parent)
        ]
        if len(found) == 1:
            return found[0]
        why = "several pools are called" if found else "there is no pool"
        raise NotFoundError(
            f"{why} {wanted!r}", component=wanted, remedy="casemate pool list shows their paths."
        )

    def node(self, wanted: str) -> str:
        """Return the id of a VM or pool."""
        for vm, fact in self.vms.items():
            if wanted in (vm, fact.config.name):
                return vm
        return self.pool(wanted)

    def path(self, pool: str) -> str:
        """Return a pool's path from the root, ``/``."""
        names = []
        at = self.pools.get(pool)
        while at is not None and at.parent:
            names.append(at.name)
            at = self.pools.get(at.parent)
        return "/" + "/".join(reversed(names))

    def name(self, node: str) -> str:
        """Return what people call a VM or pool."""
        if node in self.vms:
            return self.vms[node].config.name
        return self.path(node) if node in self.pools else node


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands."""
    pool = commands.add_parser("pool", help="resource pools: shares, reservations, limits")
    actions = pool.add_subparsers(dest="action", required=True, metavar="ACTION")
    actions.add_parser("list", help="the tree, with what is reserved and used").set_defaults(
        func=_list
    )
    create = actions.add_parser("create", help="make a pool")
    create.add_argument("name")
    create.add_argument("--parent", default="/", help="pool to make it in (default: the root)")
    _allocations(create)
    create.set_defaults(func=_create)
    change = actions.add_parser("set", help="change a pool, or the resources of a VM")
    change.add_argument("node", help="pool or VM, by name or id")
    change.add_argument("--name", help="the pool's new name")
    _allocations(change)
    change.set_defaults(func=_set)
    move = actions.add_parser("move", help="move a VM or pool into a pool")
    move.add_argument("node", help="VM or pool")
    move.add_argument("pool", help="where to")
    move.set_defaults(func=_move)
    remove = actions.add_parser("remove", help="remove a pool; what is in it moves up")
    remove.add_argument("pool")
    remove.set_defaults(func=_remove)
    explain = actions.add_parser("explain", help="why a running VM, or a pool, gets what it gets")
    explain.add_argument("node", metavar="VM", help="VM or pool")
    explain.set_defaults(func=_explain)
    _what_if_parser(actions)
    for parser in actions.choices.values():
        parser.add_argument("--json", action="store_true", help="print as JSON")


def _what_if_parser(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = actions.add_parser("what-if", help="what a change would do, without making it")
    parser.set_defaults(func=_what_if)
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="CHANGE")
    for kind, words in (
        ("power-on", "a VM starts"),
        ("power-off", "a VM stops"),
        ("remove", "a pool is removed"),
    ):
        kinds.add_parser(kind, help=words).add_argument("node", help="VM or pool")
    move = kinds.add_parser("move", help="a VM or pool moves")
    move.add_argument("node", help="VM or pool")
    move.add_argument("pool", help="where to")
    change = kinds.add_parser("set", help="a VM or pool gets other resources")
    change.add_argument("node", help="VM or pool")
    _allocations(change)
    create = kinds.add_parser("create", help="a pool is made")
    create.add_argument("node", metavar="name")
    create.add_argument("--parent", dest="pool", default="/")
    _allocations(create)
    resize = kinds.add_parser("resize", help="the host has more or less")
    resize.add_argument("--cpu", type=int, default=0, metavar="MHZ")
    resize.add_argument("--memory", type=int, default=0, metavar="MIB")
    for inner in kinds.choices.values():
        inner.add_argument("--json", action="store_true", help="print as JSON")


def _allocations(parser: argparse.ArgumentParser) -> None:
    """Add the options of both allocations."""
    for resource, unit in (("cpu", "MHz"), ("memory", "MiB")):
        group = parser.add_argument_group(resource)
        group.add_argument(f"--{resource}-reservation", type=int, metavar=unit.upper())
        group.add_argument(f"--{resource}-limit", metavar=unit.upper(), help="or: none")
        group.add_argument(f"--{resource}-shares", metavar="LEVEL", help="low, normal, high or N")
        group.add_argument(
            f"--{resource}-expandable",
            action=argparse.BooleanOptionalAction,
            help="a pool's reservations may borrow from its parent",
        )
    parser.add_argument(
        "--scale-descendants",
        action=argparse.BooleanOptionalAction,
        help="pools inside weigh as much as the VMs in them",
    )


def _changed(before: Allocation, options: argparse.Namespace, resource: str) -> Allocation | None:
    """Return the allocation with what the options change; None where they change nothing."""
    reservation, limit, shares, expandable = (
        getattr(options, f"{resource}_{what}")
        for what in ("reservation", "limit", "shares", "expandable")
    )
    after = before
    if reservation is not None:
        after = replace(after, reservation=reservation)
    if limit is not None:
        after = replace(after, limit=-1 if limit == "none" else _whole(limit, "limit"))
    if shares in _LEVELS:
        after = replace(after, shares_level=shares)
    elif shares is not None:
        after = replace(after, shares_level="custom", shares=_whole(shares, "shares"))
    if expandable is not None:
        after = replace(after, expandable=expandable)
    return None if after == before else after


def _whole(text: str, argument: str) -> int:
    if not text.isdecimal() or len(text) > 18:  # noqa: PLR2004  (fits into 64 bits)
        raise ArgumentError(f"{text[:20]!r} is not a number for --{argument}", argument=argument)
    return int(text)


def _read(calls: Calls) -> Inventory:
    return Inventory.of(calls.ask(m.Snapshot(), m.SnapshotReply).facts)


def _calls(options: argparse.Namespace) -> Calls:
    return Calls(find_home(options.home).calls_socket)


def _list(options: argparse.Namespace) -> int:
    with _calls(options) as calls:
        found = _read(calls)
    if options.json:
        print(json.dumps([asdict(fact) for fact in found.pools.values()]))
        return 0
    table = Table(box=None, pad_edge=False, padding=(0, 1))
    table.add_column("pool or VM", overflow="fold")
    for title in ("CPU: res", "limit", "shares", "used", "MEM: res", "limit", "shares", "used"):
        table.add_column(title, justify="right")
    for row in _rows(found, ROOT, 0):
        table.add_row(*row)
    console = PlainConsole()
    console.print(table)
    root = found.pools.get(ROOT)
    if root is not None:
        console.print(
            f"\nMHz and MiB; + may borrow. To be reserved yet: {root.cpu_usage.unreserved} MHz, "
            f"{root.memory_usage.unreserved // _MIB} MiB. State: {root.colour}."
        )
    return 0


def _rows(found: Inventory, pool: str, depth: int) -> Iterator[tuple[str, ...]]:
    fact = found.pools.get(pool)
    if fact is None:
        return
    name = "  " * depth + (fact.name if fact.parent else "/")
    yield (
        name + ("/" if fact.parent else ""),
        *_columns(fact.cpu, fact.cpu_usage.reservation_used),
        *_columns(fact.memory, fact.memory_usage.reservation_used // _MIB),
    )
    for child in sorted(found.pools.values(), key=lambda one: one.name):
        if child.parent == pool:
            yield from _rows(found, child.pool, depth + 1)
    for vm in sorted(found.vms.values(), key=lambda one: one.config.name):
        if vm.pool == pool:
            running = vm.power is PowerState.POWERED_ON
            yield (
                "  " * (depth + 1) + vm.config.name + ("" if running else " (off)"),
                *_columns(vm.config.cpu_allocation, vm.cpu_usage_mhz if running else None),
                *_columns(vm.config.memory_allocation, vm.host_memory_mib if running else None),
            )


def _columns(given: Allocation, used: int | None) -> tuple[str, str, str, str]:
    limit = "-" if given.limit < 0 else str(given.limit)
    reserved = f"{given.reservation}{'+' if given.expandable else ''}"
    return reserved, limit, str(given.shares), "-" if used is None else str(used)


def _create(options: argparse.Namespace) -> int:
    fresh = Allocation(expandable=True)
    with _calls(options) as calls:
        request = c.CreatePool(
            "",
            _read(calls).pool(options.parent),
            options.name,
            _changed(fresh, options, "cpu") or fresh,
            _changed(fresh, options, "memory") or fresh,
            bool(options.scale_descendants),
            _WHY,
        )
        pool = calls.ask(request, c.PoolReply).pool
    return _say(options, f"{options.name} made as {pool}", {"pool": pool})


def _set(options: argparse.Namespace) -> int:
    with _calls(options) as calls:
        found = _read(calls)
        node = found.node(options.node)
        cpu, memory = _both(found, node, options)
        if node in found.vms:
            calls.ask(c.ReconfigureResources("", node, cpu, memory, _WHY), m.Empty)
        else:
            scale = options.scale_descendants
            calls.ask(c.UpdatePool("", node, options.name, cpu, memory, scale, _WHY), m.Empty)
    return _say(options, f"{options.node} changed", {"node": node})


def _both(
    found: Inventory, node: str, options: argparse.Namespace
) -> tuple[Allocation | None, Allocation | None]:
    if node in found.vms:
        config = found.vms[node].config
        pair = config.cpu_allocation, config.memory_allocation
    else:
        pair = found.pools[node].cpu, found.pools[node].memory
    return _changed(pair[0], options, "cpu"), _changed(pair[1], options, "memory")


def _move(options: argparse.Namespace) -> int:
    with _calls(options) as calls:
        found = _read(calls)
        node, pool = found.node(options.node), found.pool(options.pool)
        if node in found.vms:
            calls.ask(c.AssignVm("", node, pool, _WHY), m.Empty)
        else:
            calls.ask(c.MovePool("", node, pool, _WHY), m.Empty)
    return _say(options, f"{options.node} moved", {"node": node, "pool": pool})


def _remove(options: argparse.Namespace) -> int:
    with _calls(options) as calls:
        pool = _read(calls).pool(options.pool)
        calls.ask(c.RemovePool("", pool, _WHY), m.Empty)
    return _say(options, f"{options.pool} removed", {"pool": pool})


def _explain(options: argparse.Namespace) -> int:
    with _calls(options) as calls:
        found = _read(calls)
        node = found.node(options.node)
        if node in found.vms and found.vms[node].power is not PowerState.POWERED_ON:
            raise NotFoundError(
                f"{options.node} does not run, so nothing is shared out to it",
                component=options.node,
                remedy=f"casemate pool what-if power-on {options.node} shows what it would get.",
            )
        reply = calls.ask(c.Explain("", node), c.ExplainReply)
    if options.json:
        print(json.dumps(asdict(reply)))
        return 0
    console = PlainConsole()
    for reasons in reply.reasons:
        unit = "MHz" if reasons.resource == "cpu" else "MiB"
        scale = 1 if reasons.resource == "cpu" else _MIB
        console.print(
            styled(
                (reasons.resource, "bold"),
                f": entitled to {reasons.amount // scale} {unit}; uses {reasons.usage // scale}, "
                f"wants {reasons.demand // scale}; "
                f"{reasons.static // scale} if every VM wanted all it may",
            )
        )
        for step in reasons.steps:
            console.print(f"  {_sentence(found, step, scale, unit)}")
    if reply.disk_shares:
        console.print(styled(("disks", "bold"), f": {_disks(reply)}"))
    console.print("latest decisions" if reply.decisions else "", style="bold")
    for entry in reply.decisions[-5:]:
        console.print(f"  {_decision(entry)}")
    return 0


def _disks(reply: c.ExplainReply) -> str:
    """Return what the shares of a VM's disks come to."""
    if reply.disk_weigher:
        return f"{reply.disk_shares} shares, which {reply.disk_weigher} weighs against other VMs'"
    return (
        f"{reply.disk_shares} shares, which change nothing: this Linux does not weigh the disk of "
        "the VM's files (neither BFQ nor io.cost is on for it); limits of disks do count"
    )


def _decision(entry: c.DecisionEntry) -> str:
    """Return what was set, when, and out of what."""
    clock = time.strftime("%H:%M:%S", time.localtime(entry.time))
    done = ", ".join(_figure(name, value) for name, value in entry.outcome)
    told = ", ".join(_figure(name, value) for name, value in entry.inputs)
    return f"{clock} {entry.what}: {done}; from {told}"


def _figure(name: str, value: int) -> str:
    """Return a number with its name as people read it."""
    words = name.removesuffix("_us").replace("_", " ")
    if name == "ready":
        return f"{words} {value / 100:.1f} %"
    if value < 0:
        return f"{words} {'not measured yet' if name == 'demand' else 'none'}"
    return f"{words} {value}{' us' if name.endswith('_us') else ''}"


def _sentence(found: Inventory, step: c.StepEntry, scale: int, unit: str) -> str:
    """Return a step in names and in the unit people use."""
    _, _, why = step.sentence.partition(": ")
    why, _, _ = why.partition(" (shares")
    return (
        f"{found.name(step.node)} gets {step.amount // scale} of the {step.budget // scale} {unit} "
        f"that {found.name(step.pool)} shares out: {why}. Its {step.weight} of {step.weights} "
        f"shares among {step.siblings} would give {step.by_shares // scale}; "
        f"at least {step.floor // scale}, at most {step.ceiling // scale}."
    )


def _what_if(options: argparse.Namespace) -> int:
    with _calls(options) as calls:
        found = _read(calls)
        reply = calls.ask(c.WhatIf("", (_trial(found, options),)), c.WhatIfReply)
    refused = any(outcome.refusal for outcome in reply.outcomes)
    if options.json:
        print(json.dumps(asdict(reply)))
        return _REFUSED if refused else 0
    console = PlainConsole()
    for outcome in reply.outcomes:
        scale, unit = (1, "MHz") if outcome.resource == "cpu" else (_MIB, "MiB")
        if outcome.refusal is not None:
            console.print(
                styled(
                    (outcome.resource, "bold"),
                    ": ",
                    ("refused", "red"),
                    f" ({outcome.refusal.fault}): {outcome.refusal.reason}",
                )
            )
            continue
        console.print(
            styled((outcome.resource, "bold"), f": admitted; the tree is {outcome.colour}")
        )
        changes = [one for one in outcome.moved if one.before // scale != one.after // scale]
        for moved in changes:
            name = found.name(moved.vm)
            console.print(f"  {name}: {moved.before // scale} -> {moved.after // scale} {unit}")
        if not changes:
            console.print("  every VM gets what it gets now")
    return _REFUSED if refused else 0


def _trial(found: Inventory, options: argparse.Namespace) -> c.Trial:
    match options.kind:
        case "resize":
            return c.Trial("resize", cpu_mhz=options.cpu, memory_size=options.memory * _MIB)
        case "create":
            fresh = Allocation(expandable=True)
            return c.Trial(
                "create",
                options.node,
                found.pool(options.pool),
                _changed(fresh, options, "cpu") or fresh,
                _changed(fresh, options, "memory") or fresh,
            )
        case "move":
            return c.Trial("move", found.node(options.node), found.pool(options.pool))
        case "set":
            node = found.node(options.node)
            cpu, memory = _both(found, node, options)
            return c.Trial("set", node, cpu=cpu, memory=memory)
        case kind:
            return c.Trial(kind, found.node(options.node))


def _say(options: argparse.Namespace, words: str, values: dict[str, str]) -> int:
    print(json.dumps({"done": options.action, **values}) if options.json else words)
    return 0
