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
    """Open a folded form, fill it in and send it, at one go: a page may draw itself anew."""
    page.until(f"document.querySelector('{place} form button') !== null")
    page.run(
        f"{{ const place = document.querySelector('{place}'); place.open = true;"
        f"for (const [name, value] of Object.entries({json.dumps(values)}))"
        " place.querySelector(`[name=${name}]`).value = value;"
        "document.querySelector('#status').textContent = '';"
        "place.querySelector('form button').click(); }"
    )


def told(page: Browser, text: str) -> None:
    page.until(f"document.querySelector('#status').innerText.includes({json.dumps(text)})")


def press_button(page: Browser, method: str) -> None:
    """Click a button once it can be; a question that it asks is answered with yes."""
    page.run("window.confirm = () => true")
    page.until(
        "((button) => button && !button.disabled && (button.click(), true))"
        f"(document.querySelector('[data-method=\"{method}\"]'))"
    )
