"""The web application: SOAP, versions, attestation, landing page, and what runs beside them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from functools import partial

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import Response
from starlette.routing import Mount, Route

from casemate.calls.messages import EvidenceReply, Quote
from casemate.errors import CasemateError
from casemate.hostd.assets import UI_PATH, pages
from casemate.hostd.console import ConsoleEndpoint
from casemate.hostd.description import PATHS, Calls, Description
from casemate.hostd.folder import PREFIX, FolderEndpoint
from casemate.hostd.http import OriginForm
from casemate.hostd.kernelclient import KernelLink
from casemate.hostd.landing import STYLE_PATH, VERSIONS_PATH, LandingPage
from casemate.hostd.methods.table import REGISTRY
from casemate.hostd.methods.vm import ALL_PCRS, NONCE_SIZE, REPORT_BANK
from casemate.hostd.nfc import NFC, NfcEndpoint
from casemate.hostd.proof import ProofEndpoint
from casemate.hostd.replica import SETTLE_SECONDS, Replica
from casemate.hostd.session import IDLE_SECONDS, Sessions
from casemate.hostd.soap import Hostd, SoapEndpoint
from casemate.hostd.viewjson import JsonEndpoint
from casemate.hostd.world import Endpoint
from casemate.machine.governance import OptionFact, SessionFact
from casemate.policy.options import LOG_LEVEL, SESSION_TIMEOUT
from casemate.vim25 import versions

SOAP_PATHS = ("/sdk", "/sdk/", "/sdk/vimService", "/sdk/webService")
"""Where calls are taken; the last two are what older toolkits were made for."""

REAP_SECONDS = 60.0
"""How often idle sessions are looked for."""

RETRY_SECONDS = 2.0
"""How soon PCR values are asked for again while the boot is not complete."""

REFRESH_SECONDS = 300.0
"""How often PCR values are asked for afterwards."""

DECIDING = frozenset({"PermissionFact", "RoleFact", "LockdownFact", "PoolFact", "VmFact"})
"""Facts that decide who may look at a VM: rights, and where in the pools it is."""

_LEVELS = {
    "none": logging.CRITICAL + 1,
    **dict.fromkeys(("quiet", "panic"), logging.CRITICAL),
    "error": logging.ERROR,
    "warning": logging.WARNING,
    "info": logging.INFO,
    **dict.fromkeys(("verbose", "trivia"), logging.DEBUG),
}

_log = logging.getLogger(__name__)


def make_app(
    link: KernelLink,
    *,
    clock: Callable[[], datetime],
    ticks: Callable[[], float],
    endpoint: Endpoint | None = None,
    give_up: Callable[[], object] = lambda: None,
) -> Starlette:
    """Return the application. ``clock`` gives the time in UTC, ``ticks`` seconds that only grow.

    ``give_up`` is called when what must go on beside the requests has ended: facts, and so rights,
    would stand still.
    """
    replica = Replica(clock, endpoint)
    sessions = Sessions(link, clock)
    hostd = Hostd(replica, sessions, link, REGISTRY)
    soap, views = SoapEndpoint(hostd), JsonEndpoint(hostd)
    folder, landing = FolderEndpoint(hostd), LandingPage(replica)
    description = Description(REGISTRY)

    async def version_document(_request: object) -> Response:
        return Response(versions.document(), media_type="text/xml")

    @contextlib.asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        jobs = [
            asyncio.ensure_future(_follow(link, replica, sessions)),
            asyncio.ensure_future(_measure(link, replica)),
            asyncio.ensure_future(_reap(sessions, replica)),
        ]
        for job in jobs:
            job.add_done_callback(partial(_ended, give_up))
        try:
            yield
        finally:
            for job in jobs:
                job.cancel()
            await asyncio.gather(*jobs, return_exceptions=True)
            await link.close()

    app = Starlette(
        middleware=[Middleware(OriginForm)],
        routes=[
            *(Route(path, Calls(soap, description)) for path in SOAP_PATHS),
            *(Route(path, description) for path in PATHS),
            Route("/sdk/vim25", views),
            Route(VERSIONS_PATH, version_document),
            Mount("/sdk/vim25", views),
            Route(PREFIX, folder),
            Mount(PREFIX, folder),
            Mount(NFC, NfcEndpoint(hostd)),
            Route(UI_PATH.rstrip("/"), _to_pages),
            Mount("/ui", pages),
            Mount("/ticket", ConsoleEndpoint(link, sessions.viewers)),
            Mount("/attestation", ProofEndpoint(link, ticks)),
            Route(STYLE_PATH, landing),
            Route("/", landing),
        ],
        lifespan=lifespan,
    )
    # Redirections would repeat the Host header, whatever a client writes there.
    app.router.redirect_slashes = False
    return app


def _ended(give_up: Callable[[], object], job: asyncio.Future[None]) -> None:
    if job.cancelled():
        return
    _log.critical("what goes on beside the requests has ended", exc_info=job.exception())
    give_up()


async def _to_pages(_request: object) -> Response:
    return Response(status_code=308, headers={"location": UI_PATH})


async def _follow(link: KernelLink, replica: Replica, sessions: Sessions) -> None:
    """Fold the kernel's stream for ever."""
    settling: asyncio.TimerHandle | None = None
    async for reply in link.facts():
        if reply is None:
            replica.restart()
            if settling is not None:
                settling.cancel()
            loop = asyncio.get_running_loop()
            settling = loop.call_later(SETTLE_SECONDS, _settle, replica, sessions)
        else:
            replica.fold(reply)
            if isinstance(reply.fact, SessionFact) and reply.fact.revoked:
                sessions.viewers.revoke(reply.key)
            elif reply.kind == "SessionFact" and reply.gone:
                sessions.forget(reply.key)
            elif isinstance(reply.fact, OptionFact) and reply.key == LOG_LEVEL:
                _say(reply.fact.value)
            elif reply.kind in DECIDING:
                sessions.viewers.look(replica.world)


def _say(level: str) -> None:
    """Write to the log what the option says; others' libraries would write what guests show."""
    logging.getLogger("casemate").setLevel(_LEVELS.get(level, logging.INFO))


def _settle(replica: Replica, sessions: Sessions) -> None:
    replica.settle()
    sessions.viewers.look(replica.world)


async def _measure(link: KernelLink, replica: Replica) -> None:
    """Keep the TPM's PCR values that are shown at the host: soon after the boot, then now and then.

    What proves something is the quote with the asker's nonce; this is only the view.
    """
    await replica.ready.wait()
    while True:
        quote = Quote(secrets.token_bytes(NONCE_SIZE), (REPORT_BANK,), ALL_PCRS)
        pause = RETRY_SECONDS
        try:
            evidence = await link.ask(quote, EvidenceReply)
        except CasemateError as error:
            _log.debug("no PCR values yet: %s", error.reason)
        else:
            replica.set_pcrs(evidence.pcrs)
            pause = REFRESH_SECONDS if evidence.boot_complete else RETRY_SECONDS
        await asyncio.sleep(pause)


async def _reap(sessions: Sessions, replica: Replica) -> None:
    while True:
        await asyncio.sleep(REAP_SECONDS)
        minutes = replica.world.option(SESSION_TIMEOUT)
        sessions.reap(60.0 * int(minutes) if minutes else IDLE_SECONDS)
