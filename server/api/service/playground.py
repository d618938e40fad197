"""The playground at `/`, the API's description at `/docs`, and their files below `/static/`.

The pages are static; they talk to the API like any other client. No key is needed to load them: a
browser can't send one with a page. The playground asks for the key and sends it with its requests.
"""

from pathlib import Path

from fastapi import APIRouter, Request, Response
from starlette.responses import RedirectResponse
from starlette.staticfiles import StaticFiles

from server.api.middleware.security_headers import PAGE_POLICY

router = APIRouter(include_in_schema=False)

FOLDER = Path(__file__).parents[1] / "static"

_HEADERS = {"content-security-policy": PAGE_POLICY}
_REVALIDATE = "no-cache"
"""Ask each time, by ETag: names stay the same when the server is updated."""
_KEEP = "public, max-age=31536000, immutable"
"""For vendored libraries, whose folders have the version in their name."""

_files = StaticFiles(directory=FOLDER, check_dir=False)


@router.get("/")
async def playground(request: Request) -> Response:
    """The page."""
    return await _file("index.html", request)


@router.get("/docs")
async def docs(request: Request) -> Response:
    """The page of the API's operations, made of `/openapi.json`. FastAPI's own would load its parts
    from another host."""
    raw_path: bytes = request.scope["raw_path"]  # with the slashes that count for nothing elsewhere
    if num_slashes := len(raw_path) - len(raw_path.rstrip(b"/")):
        # The page's links are relative, and so is this: a proxy may serve us below another path.
        return RedirectResponse("../" * num_slashes + "docs", 308)
    return await _file("docs.html", request)


@router.get("/static/{path:path}")
async def static_file(path: str, request: Request) -> Response:
    """A file that the page loads; 404 where there is none."""
    return await _file(path, request)


async def _file(path: str, request: Request) -> Response:
    response = await _files.get_response(_files.get_path({"path": path}), request.scope)
    response.headers.update(_HEADERS)
    response.headers["cache-control"] = _KEEP if path.startswith("vendor/") else _REVALIDATE
    return response
