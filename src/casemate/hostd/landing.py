"""The page at ``/``: what this is, how it was booted, where the interfaces are."""

from __future__ import annotations

from html import escape

from starlette.types import Receive, Scope, Send

from casemate.calls.evidence import IDENTITY_PATH
from casemate.hostd.assets import UI_PATH
from casemate.hostd.replica import Replica
from casemate.hostd.soap import send_response
from casemate.policy.options import WELCOME

STYLE_PATH = "/landing.css"
VERSIONS_PATH = "/sdk/vimServiceVersions.xml"

_STYLE = b""":root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 40rem; margin: 3rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: 0; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0.3rem 1rem; }
dt { opacity: 0.7; } dd { margin: 0; }
"""

_POLICY = (
    "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)

_HEADERS = {
    "content-type": "text/html; charset=utf-8",
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


class LandingPage:
    """ASGI application for the page and its style sheet."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["path"] == STYLE_PATH:
            headers = {**_HEADERS, "content-type": "text/css; charset=utf-8"}
            await send_response(send, 200, _STYLE, headers)
        else:
            await send_response(send, 200, self._page().encode(), _HEADERS)

    def _page(self) -> str:
        rows = "".join(
            f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in self._rows()
        )
        return (
            '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f'<title>Casemate</title><link rel="stylesheet" href="{STYLE_PATH}"></head><body>'
            "<h1>Casemate</h1><p>A hardened, attested hypervisor host.</p>"
            f"<dl>{rows}</dl>{self._welcome()}<h2>Interfaces</h2><ul>"
            f'<li><a href="{UI_PATH}">Manage this host</a></li>'
            f'<li><a href="{VERSIONS_PATH}">vSphere API versions</a> (SOAP at <code>/sdk</code>)'
            f'</li><li><a href="{IDENTITY_PATH}">TPM identity</a>: ask for proof with '
            "<code>casemate attest</code></li></ul></body></html>\n"
        )

    def _welcome(self) -> str:
        text = self._replica.world.option(WELCOME)
        return f"<p>{escape(text)}</p>" if text else ""

    def _rows(self) -> list[tuple[str, str]]:
        if not self._replica.world.ready:
            return [("State", "starting")]
        host = self._replica.world.host
        measured = f"TPM {host.tpm_version}, D-RTM launch: {host.drtm_type}"
        return [
            ("Version", f"{host.product_version} build-{host.build}"),
            ("Acceptance level", host.acceptance_level),
            ("Measured boot", measured if host.tpm_version else "no TPM"),
            ("Weakened by", ", ".join(host.taints) or "nothing"),
            ("Verdict", "a host does not judge itself; ask a verifier"),
        ]
