"""A headless Chromium that is driven through its DevTools protocol, over a pair of pipes."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from casemate.errors import HostError, StateError

START_SECONDS = 100.0
_READ_FD, _WRITE_FD = 3, 4
_CHUNK = 1 << 16


def find_chromium() -> str | None:
    """Return the browser's program, or None."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


class Browser:
    """One page of one browser."""

    def __init__(self, to: int, back: int) -> None:
        self._to = to
        self._back = back
        self._number = 0
        self._buffer = b""
        self.events: list[dict[str, object]] = []
        target = self.send("Target.createTarget", {"url": "about:blank"})["targetId"]
        flat = {"targetId": target, "flatten": True}
        self._session = str(self.send("Target.attachToTarget", flat)["sessionId"])
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def send(self, method: str, parameters: dict[str, object] | None = None) -> dict[str, object]:
        """Send a command and return its result. Raises StateError."""
        self._number += 1
        message: dict[str, object] = {
            "id": self._number,
            "method": method,
            "params": parameters or {},
        }
        if session := getattr(self, "_session", ""):
            message["sessionId"] = session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + START_SECONDS
        while True:
            reply = self._next(deadline)
            if reply.get("id") != self._number:
                self.events.append(reply)
                continue
            result = reply.get("result")
            if not isinstance(result, dict):
                raise StateError(f"{method}: {reply.get('error')}")
            return result

    def _next(self, deadline: float) -> dict[str, object]:
        while b"\0" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._back], [], [], left)[0]:
                raise StateError("the browser does not answer")
            data = os.read(self._back, _CHUNK)
            if not data:
                raise StateError("the browser ended")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\0")
        found = json.loads(line)
        if not isinstance(found, dict):
            raise StateError("the browser does not speak its protocol")
        return found

    def go(self, url: str) -> None:
        """Load a page."""
        self.send("Page.navigate", {"url": url})

    def run(self, script: str) -> object:
        """Run JavaScript in the page and return its value. Raises StateError."""
        found = self.send(
            "Runtime.evaluate",
            {"expression": script, "returnByValue": True, "awaitPromise": True},
        )
        if "exceptionDetails" in found:
            raise StateError(f"{script}: {found['exceptionDetails']}")
        result = found["result"]
        return result.get("value") if isinstance(result, dict) else None

    def until(self, script: str, seconds: float = 60.0) -> None:
        """Wait until the script gives true. Raises StateError."""
        deadline, why = time.monotonic() + seconds, ""
        while time.monotonic() < deadline:
            try:
                if self.run(script):
                    return
            except StateError as error:  # between two pages there is nothing to ask
                why = error.reason
            time.sleep(0.05)
        raise StateError(f"not true in time: {script} {why}")

    def press(self, key: str) -> None:
        """Press and release a key, as a keyboard does."""
        text = "\r" if key == "Enter" else ""
        code = {"Enter": 13, "Tab": 9}.get(key, 0)
        for kind in ("keyDown", "keyUp"):
            self.send(
                "Input.dispatchKeyEvent",
                {"type": kind, "key": key, "text": text, "windowsVirtualKeyCode": code},
            )

    def type(self, text: str) -> None:
        """Type text into what has the focus."""
        self.send("Input.insertText", {"text": text})

    def look(self, *, width: int = 1200, height: int = 800, dark: bool = False) -> None:
        """Set the size of the window and whether it is dark."""
        self.send(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600},  # noqa: PLR2004  (a phone)
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", {"features": [scheme]})

    def picture(self, path: Path) -> None:
        """Write what the page looks like."""
        data = self.send("Page.captureScreenshot", {"format": "png"})["data"]
        path.write_bytes(base64.b64decode(str(data)))

    def complaints(self) -> list[object]:
        """Return what the page logged as an error: exceptions, violations of the policy."""
        found: list[object] = []
        for event in self.events:
            parameters = event.get("params")
            if not isinstance(parameters, dict):
                continue
            if event.get("method") == "Runtime.exceptionThrown":
                found.append(parameters)
            entry = parameters.get("entry")
            if isinstance(entry, dict) and entry.get("level") == "error":
                found.append(entry)
        return found

    def requests(self) -> list[str]:
        """Return the addresses that the page asked for."""
        found: list[str] = []
        for event in self.events:
            parameters = event.get("params")
            if event.get("method") == "Network.requestWillBeSent" and isinstance(parameters, dict):
                found.append(str(parameters["request"]["url"]))
        return found


@contextmanager
def chromium(profile: Path) -> Iterator[Browser]:
    """Run a browser for the duration of a ``with`` block. Raises HostError when there is none."""
    program = find_chromium()
    if program is None:
        raise HostError("there is no Chromium", remedy="Install the package chromium.")
    to_read, to = os.pipe()
    back, back_write = os.pipe()
    argv = [
        program,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--ignore-certificate-errors",
        "--no-first-run",
        "--remote-debugging-pipe",
        f"--user-data-dir={profile}",
    ]
    null = os.open(os.devnull, os.O_RDWR)
    actions = [
        (os.POSIX_SPAWN_DUP2, null, 1),
        (os.POSIX_SPAWN_DUP2, null, 2),
        # Out of the way first: one of the pipes may have a number that the other one needs.
        (os.POSIX_SPAWN_DUP2, to_read, 20),
        (os.POSIX_SPAWN_DUP2, back_write, 21),
        (os.POSIX_SPAWN_DUP2, 20, _READ_FD),
        (os.POSIX_SPAWN_DUP2, 21, _WRITE_FD),
    ]
    pid = os.posix_spawn(program, argv, os.environ, file_actions=actions, setpgroup=0)
    for handle in (to_read, back_write, null):
        os.close(handle)
    try:
        yield Browser(to, back)
    finally:
        os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(to)
        os.close(back)
