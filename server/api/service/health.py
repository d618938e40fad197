"""What operators ask: alive, ready, which version, and the metrics.

Alive and ready differ while the server starts and while it ends: nothing is wrong then, but
requests should go elsewhere.
"""

from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel

from server.api.deps import Parts, PartsDep
from server.api.http.errors import ErrorBody, describe
from server.api.http.lifecycle import Lifecycle
from server.errors import EngineDeadError

router = APIRouter()


class Status(BaseModel):
    status: str


_Answers = dict[int | str, dict[str, Any]]
DEAD: _Answers = {503: {"model": ErrorBody, "description": "The engine is dead"}}
NOT_READY: _Answers = {
    503: {"model": Status | ErrorBody, "description": "The server starts or ends, or is dead"}
}


@router.get("/health", response_model=Status, responses=DEAD)
async def health(parts: PartsDep) -> Response:
    """200 while open requests can be served, 503 once the engine is dead, because a step of it
    crashed or hangs: restart the process."""
    return _dead(parts) or JSONResponse({"status": "ok"})


@router.get("/ready", response_model=Status, responses=NOT_READY)
async def ready(http_request: Request, parts: PartsDep) -> Response:
    """200 when requests should be sent here, 503 where the engine is not started or dead, and while
    open requests are finished before the server ends. While the model loads there is no answer at
    all: connections wait."""
    dead = _dead(parts)
    if dead is not None:
        return dead
    if not parts.engine.is_ready:
        return JSONResponse({"status": "starting"}, status_code=503)
    lifecycle: Lifecycle = http_request.app.state.lifecycle
    if lifecycle.state != "serving":
        return JSONResponse({"status": "draining"}, status_code=503)
    return JSONResponse({"status": "ready"})


@router.get("/version")
async def version(parts: PartsDep) -> dict[str, str]:
    """The server's version."""
    return {"version": parts.info.version}


@router.get(
    "/metrics",
    response_class=PlainTextResponse,
    responses={200: {"content": {CONTENT_TYPE_LATEST: {"schema": {"type": "string"}}}}},
)
async def metrics(parts: PartsDep) -> Response:
    """Prometheus's text format."""
    text = parts.metrics.render() if parts.all_metrics is None else await parts.all_metrics()
    return Response(text, media_type=CONTENT_TYPE_LATEST)


def _dead(parts: Parts) -> Response | None:
    try:
        parts.engine.check_health()
    except EngineDeadError as error:
        # Not the 500 that requests get: to a load balancer 503 says "not here".
        return JSONResponse(describe(error).body.model_dump(), status_code=503)
    return None
