"""What tests do on the host's pages: show, fill in, click, and wait for the answer."""

from __future__ import annotations

import json
import os
from pathlib import Path
from urllib.parse import quote

from casemate.testing.chromium import Browser

DATASTORE = f"files/{quote('[datastore1]', safe='')}"
EVIL = "<img src=x onerror=alert(1)>"


def show(page: Browser, name: str) -> str:
    page.run(f"delete document.body.dataset.ready; location.hash = '{name}'")
    ready = name.partition("/")[0]
    page.until(f"document.body.dataset.ready === '{ready}'")
    return str(page.run("document.querySelector('main').innerText"))


def keep(page: Browser, name: str) -> None:
    if place := os.environ.get("CASEMATE_SCREENSHOTS"):
        page.picture(Path(place) / f"{name}.png")


def fill(page: Browser, place: str, **values: str) -> None:
    """Open a folded form, fill it in and send it, then wait until the page says how it ended."""
    page.run(f"document.querySelector('{place}').open = true; status = ''")
    for name, value in values.items():
        page.run(
            f"document.querySelector('{place} [name={name}]').value = {json.dumps(value)};"
            "document.querySelector('#status').textContent = ''"
        )
    page.run(f"document.querySelector('{place} form button').click()")


def told(page: Browser, text: str) -> None:
    page.until(f"document.querySelector('#status').innerText.includes({json.dumps(text)})")


def press_button(page: Browser, method: str) -> None:
    """Click a button; a question that it asks is answered with yes."""
    page.run("window.confirm = () => true")
    page.run(f"document.querySelector('[data-method=\"{method}\"]').click()")
