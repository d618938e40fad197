"""Endpoints that clients know from OpenAI and other servers, and that aren't offered here: a 404
that says so, instead of one that leaves people looking for a mistake in their URL."""

from collections.abc import Awaitable, Callable
from typing import Final

from fastapi import APIRouter, Request, Response

from server.errors import NotFoundError

router = APIRouter(include_in_schema=False)

NOT_OFFERED: Final = {
    "assistants": "assistants",
    "audio": "speech and transcription",
    "batches": "batches",
    "chatkit": "chat interfaces",
    "classify": "classification",
    "complete": "Anthropic's API before messages",
    "containers": "containers",
    "content_provenance_checks": "checks of where content comes from",
    "conversations": "kept conversations besides those of /v1/responses",
    "edits": "edits",
    "embeddings": "embeddings",
    "evals": "evaluations",
    "files": "files",
    "fine_tuning": "fine-tuning",
    "images": "images",
    "messages/batches": "batches of messages",
    "moderations": "moderation",
    "organization": "administration",
    "pooling": "pooling",
    "projects": "administration",
    "realtime": "realtime sessions",
    "rerank": "reranking",
    "score": "scoring",
    "skills": "skills",
    "threads": "threads of assistants",
    "uploads": "uploads",
    "v1": "the base URL of Anthropic's clients has no /v1",
    "vector_stores": "vector stores",
    "videos": "videos",
}
"""What lies below `/v1/`, and what it is about."""

_NOT_OFFERED_ALONE: Final = {
    ("GET", "chat/completions/{id}"): "stored chats",
    ("POST", "chat/completions/{id}"): "stored chats",
    ("DELETE", "chat/completions/{id}"): "stored chats",
    ("POST", "responses/compact"): "compaction",
    ("POST", "responses/{id}/cancel"): "responses in the background",
}
"""The same beside what is offered below the same path."""

_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")


def _refusing(name: str, what: str) -> Callable[[Request], Awaitable[Response]]:
    async def refuse(_: Request) -> Response:
        raise NotFoundError(
            f"/v1/{name} is not offered ({what}): this server has chats, completions, responses"
            " and messages"
        )

    return refuse


for _name, _what in NOT_OFFERED.items():
    for _path in (f"/v1/{_name}", f"/v1/{_name}/{{rest:path}}"):
        router.add_route(_path, _refusing(_name, _what), methods=[*_METHODS])
for (_method, _name), _what in _NOT_OFFERED_ALONE.items():
    router.add_route(f"/v1/{_name}", _refusing(_name, _what), methods=[_method])
