"""Limits of concurrent generation over HTTP.

Around the app and not in the routes, because a streamed answer goes on long after its route.
"""

import asyncio

from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.api.http.receiving import disconnected, replayed, unless_disconnected
from server.api.middleware.admission import Admission, Place
from server.api.middleware.auth import key_owner

_PLACE = "place"


class ConcurrencyMiddleware:
    """Every POST under /v1/ takes a place until its answer is sent or its client has left: at
    first for one generation, until its body has been read (`take_places`).

    Raises:
        RateLimitError: it can neither run nor wait.
        ClientDisconnect: the client left while waiting.
    """

    def __init__(self, app: ASGIApp, admission: Admission) -> None:
        self._app = app
        self._admission = admission

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not _generates(scope):
            await self._app(scope, receive, send)
            return
        place = self._admission.enter(key_owner(scope))
        scope.setdefault("state", {})[_PLACE] = place
        try:
            if not place.turn.done():
                receive = await _wait_for_turn(place, receive)
            await self._app(scope, receive, send)
        finally:
            self._admission.leave(place)


async def take_places(http_request: Request, count: int) -> None:
    """Makes a request's place count as so many generations; it may have to wait again.

    Raises:
        ClientDisconnect: the client left while waiting.
    """
    admission: Admission = http_request.app.state.admission
    place: Place = http_request.scope["state"][_PLACE]
    if count > 1:
        admission.resize(place, count)
        await unless_disconnected(http_request, wait_for_turn(place))


async def wait_for_turn(place: Place) -> None:
    """Returns when the place runs."""
    await asyncio.shield(place.turn)  # giving up must not cancel the future of `Admission`


def _generates(scope: Scope) -> bool:
    return (
        scope["type"] == "http" and scope["method"] == "POST" and scope["path"].startswith("/v1/")
    )


async def _wait_for_turn(place: Place, receive: Receive) -> Receive:
    """Returns when it is the place's turn; the new `receive` has what came in the meantime."""
    seen: list[Message] = []
    watch = asyncio.create_task(disconnected(receive, seen))
    try:
        await asyncio.wait({place.turn, watch}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)
    if not place.turn.done():
        raise ClientDisconnect
    return replayed(seen, receive)
