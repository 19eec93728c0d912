"""Network stacks for tests: threads of this program, each in a network of its own."""

from __future__ import annotations

import asyncio
import os
import select
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from casemate.kernel.sys.namespaces import Namespace, unshare
from casemate.kernel.sys.netlink import Links
from casemate.kernel.sys.taps import open_namespace


class Stack:
    """A thread in a network namespace of its own, whose loopback is up."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1)
        self.namespace = self.now(self._boot)

    def _boot(self) -> int:
        unshare(Namespace.NET)
        with Links() as links:
            links.set_up(links.index("lo"), up=True)
        return open_namespace()

    def now(self, work: Callable[..., Any], *arguments: Any) -> Any:
        return self._thread.submit(work, *arguments).result()

    async def do(self, work: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)

    def address(self, name: str, address: str, prefix: int) -> None:
        """Give one of its interfaces an address, and switch it on."""

        def there() -> None:
            with Links() as links:
                index = links.index(name)
                links._route.addr("add", index=index, address=address, prefixlen=prefix)
                links.set_up(index, up=True)

        self.now(there)

    def route(self, gateway: str, to: str = "0.0.0.0/0") -> None:
        """Send what is for a network to a gateway."""

        def there() -> None:
            with Links() as links:
                links._route.route("add", dst=to, gateway=gateway)

        self.now(there)

    def cable(self, name: str, other: Stack, far: str) -> None:
        """Lay a cable to another stack."""

        def there() -> None:
            with Links() as links:
                links.add_cable(name, far, other.namespace)

        self.now(there)

    def close(self) -> None:
        self._thread.shutdown()
        os.close(self.namespace)


class Cables:
    """Carries frames between each guest's card and the host's end of it, as QEMU does."""

    def __init__(self, pairs: list[tuple[int, int]]) -> None:
        self._to = dict(pairs) | {b: a for a, b in pairs}
        self._reader, self._writer = os.pipe()
        self._thread = threading.Thread(target=self._carry)
        self._thread.start()

    def _carry(self) -> None:
        while True:
            ready, _, _ = select.select([*self._to, self._reader], [], [])
            if self._reader in ready:
                return
            for end in ready:
                try:
                    os.write(self._to[end], os.read(end, 65536))
                except OSError:
                    continue  # a card that is unplugged takes nothing

    def close(self) -> None:
        os.close(self._writer)
        self._thread.join()
        os.close(self._reader)
