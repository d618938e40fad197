"""Routes that take a JSON body."""

import email.message
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic import TypeAdapter

from server.api.body.json_body import LONG_BODY, read_json, validated
from server.api.body.limit import forget_body
from server.api.body.unknown_fields import UnknownFieldLog
from server.api.deps import Parts
from server.api.http.receiving import body_message, replayed


class _ReadRequest(Request):
    """A request whose body was read: FastAPI, which asks for it, gets the model, and passes it on.
    The bytes themselves can be forgotten."""

    model: object = None

    async def body(self) -> bytes:
        return b"model"  # anything but nothing

    async def json(self) -> object:
        return self.model


class BodyRoute(APIRoute):
    """Reads and validates the body itself, a long one in a thread.

    Unknown fields are left out if the app says so: it does by an `UnknownFieldLog` in
    `app.state.unknown_fields`, and refuses them by None.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        answer = super().get_route_handler()
        model = self.body_field and self.body_field.field_info.annotation
        if model is None:
            return answer
        adapter: TypeAdapter[Any] = TypeAdapter(model)

        async def handle(request: Request) -> Response:
            body = b"".join([part async for part in request.stream()])
            if not body or not _is_json(request):
                # FastAPI has its own errors for these.
                return await answer(
                    Request(request.scope, replayed([body_message(body)], request.receive))
                )
            parts: Parts = request.app.state.parts
            log: UnknownFieldLog | None = request.app.state.unknown_fields
            path = request.url.path

            def read(body: bytes = body) -> object:
                return validated(adapter, read_json(body), path, log)

            read_request = _ReadRequest(request.scope, request.receive)
            read_request.model = await parts.long_work.run(len(body) > LONG_BODY, read)
            del body, read
            forget_body(request.scope)
            return await answer(read_request)

        return handle


def _is_json(request: Request) -> bool:
    message = email.message.Message()
    message["content-type"] = request.headers.get("content-type", "")
    subtype = message.get_content_subtype()
    return message.get_content_maintype() == "application" and (
        subtype == "json" or subtype.endswith("+json")
    )
