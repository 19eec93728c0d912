"""Network interfaces of the machine: up, address, route. IPv4, by ioctl; names of 15 bytes."""

from __future__ import annotations

import fcntl
import ipaddress
import socket
import struct
from typing import Final

from casemate.kernel.sys.libc import from_os_error

_SIOCADDRT: Final = 0x890B
_SIOCGIFFLAGS: Final = 0x8913
_SIOCSIFFLAGS: Final = 0x8914
_SIOCSIFADDR: Final = 0x8916
_SIOCSIFNETMASK: Final = 0x891C
_IFF_UP: Final = 1
_RTF_UP_GATEWAY: Final = 3
# struct rtentry of 64-bit Linux: padding, three sockaddr, flags, then what stays zero here.
_ROUTE: Final = struct.Struct("=Q16s16s16sHhQQHxxxxxxQQQHxxxxxx")


def bring_up(name: str) -> None:
    """Switch an interface on. Raises HostError."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
        try:
            request = struct.pack("16s16x", name.encode())
            answer = fcntl.ioctl(handle, _SIOCGIFFLAGS, request)
            (flags,) = struct.unpack_from("=H", answer, 16)
            request = struct.pack("=16sH14x", name.encode(), flags | _IFF_UP)
            fcntl.ioctl(handle, _SIOCSIFFLAGS, request)
        except OSError as error:
            raise from_os_error(
                f"the interface {name} cannot be switched on", error, component=name
            ) from error


def set_address(name: str, address: ipaddress.IPv4Interface) -> None:
    """Give an interface its address and netmask. Raises HostError."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
        try:
            for command, value in (
                (_SIOCSIFADDR, address.ip),
                (_SIOCSIFNETMASK, address.network.netmask),
            ):
                request = struct.pack("16s16s8x", name.encode(), _sockaddr(value))
                fcntl.ioctl(handle, command, request)
        except OSError as error:
            raise from_os_error(
                f"the interface {name} cannot be given {address}", error, component=name
            ) from error


def set_default_route(gateway: ipaddress.IPv4Address) -> None:
    """Send what is for elsewhere to ``gateway``. Raises HostError."""
    anywhere = _sockaddr(ipaddress.IPv4Address(0))
    request = _ROUTE.pack(
        *(0, anywhere, _sockaddr(gateway), anywhere, _RTF_UP_GATEWAY),
        *(0, 0, 0, 0, 0, 0, 0, 0),
    )
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
        try:
            fcntl.ioctl(handle, _SIOCADDRT, request)
        except OSError as error:
            raise from_os_error(
                f"no route over {gateway} can be made", error, component=str(gateway)
            ) from error


def _sockaddr(address: ipaddress.IPv4Address) -> bytes:
    return struct.pack("=HH4s8x", socket.AF_INET, 0, address.packed)
