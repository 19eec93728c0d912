"""Ways from an agent to its verifier: HTTPS, one of several, or a message server."""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from casemate.errors import (
    ArgumentError,
    HostError,
)
from casemate.formats.text import escape
from casemate.verifier.bus import BusClient, Place
from casemate.verifier.endpoints import AGENT

TIMEOUT = 30.0
ANSWER_LIMIT = 1 << 20


class Posting(Protocol):
    """A way to the verifier's endpoints for agents."""

    def post(self, path: str, body: bytes = b"") -> dict[str, Any]:
        """Send something and return the answer."""
        ...


def _refused(name: str, status: int, value: dict[str, Any]) -> HostError:
    said = value.get("error", {})
    return HostError(
        f"{name} refused: {escape(str(said.get('reason', status)))}",
        code=str(said.get("code", "refused"))[:64],
        component=name,
        remedy=escape(str(said.get("remedy", "Look at the verifier."))),
    )


class OverNats:
    """The same endpoints over a NATS server; raises as ``Verifier``."""

    def __init__(self, place: Place, secret: str) -> None:
        self._name = place.url
        self._client = BusClient(place, secret)

    def post(self, path: str, body: bytes = b"") -> dict[str, Any]:
        """Send something and return the answer."""
        operation, _, nonce = path.removeprefix("/").partition("?nonce=")
        status, value = self._client.ask(operation, body, nonce)
        if status != http.client.OK:
            raise _refused(self._name, status, value)
        return value

    def close(self) -> None:
        """Close the connection."""
        self._client.close()


class Verifier:
    """The verifier's endpoints for agents. Raises HostError, or what the verifier refuses with."""

    def __init__(self, url: str, secret: str, ca: Path | None) -> None:
        parts = urlsplit(url)
        if parts.scheme != "https" or not parts.hostname:
            raise ArgumentError("the verifier is https://HOST:PORT", argument="verifier")
        context = ssl.create_default_context(cafile=str(ca) if ca else None)
        self._name = parts.netloc
        self._secret = secret
        self._connection = http.client.HTTPSConnection(
            parts.hostname, parts.port or 443, timeout=TIMEOUT, context=context
        )

    def post(self, path: str, body: bytes = b"") -> dict[str, Any]:
        """Send something and return the answer."""
        headers = {"authorization": f"Bearer {self._secret}", "content-type": "application/json"}
        try:
            self._connection.request("POST", AGENT + path, body, headers)
            response = self._connection.getresponse()
            data = response.read(ANSWER_LIMIT)
            value = json.loads(data)
        except (OSError, http.client.HTTPException, ValueError) as error:
            self._connection.close()
            raise HostError(
                f"{self._name} does not answer: {error}",
                code="unreachable",
                component=self._name,
                remedy="Check the verifier's address, and its certificate with --ca.",
            ) from error
        if response.status != http.client.OK:
            raise _refused(self._name, response.status, value)
        return dict(value)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


class AnyOf:
    """Several verifiers of one fleet: the one that answered last is called first."""

    def __init__(self, ways: Sequence[Verifier]) -> None:
        self._ways = list(ways)

    def post(self, path: str, body: bytes = b"") -> dict[str, Any]:
        """Send something and return the answer; raises what the last one raised."""
        for left in range(len(self._ways) - 1, -1, -1):
            try:
                return self._ways[0].post(path, body)
            except HostError as error:
                if not left or error.code not in _ELSEWHERE:
                    raise
                self._ways.append(self._ways.pop(0))
        raise AssertionError

    def close(self) -> None:
        """Close the connections."""
        for way in self._ways:
            way.close()


_ELSEWHERE = frozenset({"unreachable", "database"})
"""What another verifier may not suffer from."""
