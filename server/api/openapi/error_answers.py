"""Error answers for the OpenAPI document."""

from typing import Any

from server.api.http.error_schema import ErrorBody

# The ranges also keep FastAPI from documenting a 422: validation answers 400 here.
ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorBody, "description": "The request can't be served as it is"},
    "5XX": {"model": ErrorBody, "description": "The server failed"},
}
