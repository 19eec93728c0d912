"""The pages under ``/ui/``: a fixed set of files, read once, sent with a strict policy."""

from __future__ import annotations

from functools import cache
from importlib import resources

from starlette.types import Receive, Scope, Send

from casemate.hostd.soap import send_response

UI_PATH = "/ui/"
_PLACE = ("casemate", "ui/host")
_TYPES = {
    "index.html": "text/html; charset=utf-8",
    "app.css": "text/css; charset=utf-8",
    **{
        f"{name}.js": "text/javascript; charset=utf-8"
        for name in (
            *("activity", "allocation", "api", "app", "certificate", "console", "dom", "drawing"),
            *("files", "forms", "hardening", "keysym", "measurements", "network", "overview"),
            *("packages", "pages", "pools", "rfb", "storage", "users", "vmedit", "vmparts", "vms"),
        )
    },
}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'"
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-cache",
}


@cache
def _content(name: str) -> bytes:
    package, place = _PLACE
    return (resources.files(package) / place / name).read_bytes()


async def pages(scope: Scope, _receive: Receive, send: Send) -> None:
    """Answer one request for a page, a style sheet or a module."""
    name = scope["path"].removeprefix(UI_PATH) or "index.html"
    if scope["method"] not in {"GET", "HEAD"} or name not in _TYPES:
        await send_response(send, 404, b"", {"cache-control": "no-store"})
        return
    await send_response(send, 200, _content(name), {**_HEADERS, "content-type": _TYPES[name]})
