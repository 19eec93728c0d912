"""What a VM shows and is told: console tickets, screenshots, keys."""

from __future__ import annotations

from casemate.calls import vmconsole
from casemate.calls.messages import Empty, TaskReply
from casemate.hostd.http import CONSOLE_PATH
from casemate.hostd.objects.vm import vmx_path
from casemate.hostd.registry import Context, Served
from casemate.hostd.selection import objs, text
from casemate.hostd.viewers import Viewer
from casemate.machine.facts import VmConfig
from casemate.machine.serialports import PIPE
from casemate.machine.usbkeys import MODIFIERS, PAGE
from casemate.vim25 import faults
from casemate.vim25.faults import FaultError
from casemate.vim25.values import MoRef, Obj, Value

WHY = "vSphere API"
_PAGE_BITS = 16
_PAGE_MASK = 0xFFFF


async def _acquire(context: Context) -> Value:
    kind = text(context.arguments.get("ticketType"))
    world = context.replica.world
    vm = world.vms[context.this.value]
    if kind not in {"webmks", "device"}:
        raise FaultError(
            Obj("NotSupported"), f"There are tickets for webmks and device, not for {kind:.40}."
        )
    serial = _serial_port(vm.config) if kind == "device" else -1
    request = vmconsole.AcquireTicket(context.who.handle, context.this.value, WHY, serial)
    reply = await context.link.ask(request, vmconsole.TicketReply)
    viewer = Viewer(context.who.key, context.who.user, vm.vm)
    context.sessions.viewers.issued(reply.ticket, viewer)
    endpoint = world.endpoint
    return Obj(
        "VirtualMachineTicket",
        ticket=reply.ticket,
        cfgFile=vmx_path(context.reader.scope, vm),
        host=world.host.name,
        port=endpoint.port,
        sslThumbprint=endpoint.thumbprint or None,
        url=f"wss://{world.host.name}:{endpoint.port}{CONSOLE_PATH}{reply.ticket}",
    )


def _serial_port(config: VmConfig) -> int:
    """Return the port that a ticket for a device is for: the first pipe, else the console."""
    pipes = (port.number for port in config.serials if port.kind == PIPE and port.connected)
    return next(pipes, 0)


async def _screenshot(context: Context) -> Value:
    request = vmconsole.TakeScreenshot(context.who.handle, context.this.value, WHY)
    return MoRef("Task", (await context.link.ask(request, TaskReply)).task)


async def _keys(context: Context) -> Value:
    spec = context.arguments.get("spec")
    events = objs(spec.get("keyEvents")) if isinstance(spec, Obj) else ()
    strokes = tuple(_stroke(event) for event in events)
    request = vmconsole.SendKeys(context.who.handle, context.this.value, strokes, WHY)
    await context.link.ask(request, Empty)
    return len(strokes)


def _stroke(event: Obj) -> tuple[int, tuple[int, ...]]:
    """Return usage and modifiers of a key event; its code is usage and page in one number."""
    code = event.get("usbHidCode")
    if not isinstance(code, int) or code & _PAGE_MASK != PAGE or code < 0:
        raise faults.invalid_argument("spec.keyEvents.usbHidCode", "It is not a key's.")
    held = event.get("modifiers")
    given = held.fields if isinstance(held, Obj) else {}
    pressed = tuple(usage for name, usage in MODIFIERS.items() if given.get(name) is True)
    return code >> _PAGE_BITS, pressed


_VM = "VirtualMachine"

CONSOLE_METHODS = (
    Served(
        _VM,
        "AcquireTicket",
        vmconsole.AcquireTicket.privilege,
        _acquire,
        (vmconsole.AcquireTicket,),
        rule="webmks: the screen; device: the first serial port that is a pipe, else the first",
    ),
    Served(
        _VM,
        "CreateScreenshot_Task",
        vmconsole.TakeScreenshot.privilege,
        _screenshot,
        (vmconsole.TakeScreenshot,),
    ),
    Served(_VM, "PutUsbScanCodes", vmconsole.SendKeys.privilege, _keys, (vmconsole.SendKeys,)),
)
