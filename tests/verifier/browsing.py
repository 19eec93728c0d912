"""Somebody at a browser."""

from __future__ import annotations

import json
import os
import time
from itertools import count
from pathlib import Path

from tests.verifier.conftest import PASSWORD, Web

from casemate.errors import StateError
from casemate.testing.chromium import Browser

SECONDS = 90.0


class User:
    """Somebody at the browser: sees text, follows links, fills in and presses buttons."""

    def __init__(self, web: Web, browser: Browser) -> None:
        self.web, self.browser = web, browser
        self._looks = count()

    def until(self, script: str) -> None:
        """Wait until the script gives true, through changes of the page."""
        deadline = time.monotonic() + SECONDS
        while True:
            try:
                if self.browser.run(script):
                    return
            except StateError:
                pass  # between two pages
            if time.monotonic() > deadline:
                raise TimeoutError(f"{script} in {self.text()}")
            time.sleep(0.05)

    def visit(self, path: str) -> str:
        mark = f"look={next(self._looks)}"
        mark = f"{'&' if '?' in path else '?'}{mark}"
        self.browser.go(f"{self.web.client.base_url}{path}{mark}")
        self.until(f"location.href.endsWith('{mark}') && document.readyState === 'complete'")
        return self.text()

    def text(self) -> str:
        return str(self.browser.run("document.body.innerText"))

    def buttons(self) -> set[str]:
        found = self.browser.run("[...document.querySelectorAll('button')].map(b => b.innerText)")
        assert isinstance(found, list)
        return set(found)

    def press(self, button: str, **values: str) -> str:
        """Fill in a button's form and press it; returns the text of the page that comes."""
        self.browser.run(
            f"{{ window.old = true; const button = [...document.querySelectorAll('button')].find("
            f"b => b.innerText === {json.dumps(button)});"
            f"for (const [name, value] of Object.entries({json.dumps(values)}))"
            " button.form.elements[name].value = value; button.click(); }"
        )
        self.until("!window.old && document.readyState === 'complete'")
        return self.text()

    def unfold(self, summary: str) -> None:
        """Open what is folded under some words."""
        self.browser.run(
            "[...document.querySelectorAll('details:not([open]) > summary')].find("
            f"s => s.innerText === {json.dumps(summary)}).click()"
        )

    def attach(self, form: str, **files: Path) -> None:
        """Choose files in the form that is sent to a path."""
        for name, path in files.items():
            found = self.browser.send(
                "Runtime.evaluate",
                {"expression": f"document.querySelector('form[action=\"{form}\"] [name={name}]')"},
            )["result"]
            assert isinstance(found, dict)
            handle = {"files": [str(path)], "objectId": found["objectId"]}
            self.browser.send("DOM.setFileInputFiles", handle)

    def enter(self, name: str, password: str = PASSWORD) -> str:
        """Log in with the keyboard alone."""
        self.browser.send("Network.clearBrowserCookies")
        self.browser.go(f"{self.web.client.base_url}/login")
        self.until("document.activeElement && document.activeElement.name === 'user'")
        self.browser.run("window.old = true")
        self.browser.type(name)
        self.browser.press("Tab")
        self.browser.type(password)
        self.browser.press("Enter")
        self.until("!window.old && document.readyState === 'complete'")
        return self.text()

    def sees(self, path: str, text: str) -> None:
        """Look at a page again and again until it has the text."""
        deadline = time.monotonic() + SECONDS
        while text not in (shown := self.visit(path)):
            assert time.monotonic() < deadline, shown
            time.sleep(0.2)

    def attest(self, host: str, text: str) -> None:
        self.visit(f"/hosts/{host}")
        self.press("Attest now")
        self.sees(f"/hosts/{host}", text)

    def keep(self, name: str) -> None:
        """Keep the page's picture where the environment says so."""
        if place := os.environ.get("CASEMATE_SCREENSHOTS"):
            self.browser.picture(Path(place) / f"{name}.png")
