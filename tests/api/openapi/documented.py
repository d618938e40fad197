"""Tables of docs/api.md, and the fields of requests that they list."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from server.api.schema.fields import AdvisoryMark

DOCS = (Path(__file__).parents[3] / "docs" / "api.md").read_text()


def table(heading: str) -> list[list[str]]:
    """The rows of the first table after a heading, without their marks of code."""
    section = DOCS.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("|")][2:]
    return [[cell.strip().replace("`", "") for cell in row.strip("|").split("|")] for row in rows]


class Field(NamedTuple):
    endpoint: str
    path: str
    info: FieldInfo


def fields(endpoint: str, model: type[BaseModel], prefix: str = "") -> Iterator[Field]:
    """A body's fields and those of the objects in it."""
    for name, info in model.model_fields.items():
        path = prefix + (info.alias or name)
        yield Field(endpoint, path, info)
        for nested, inside in nested_models(info.annotation, path):
            yield from fields(endpoint, nested, f"{inside}.")


def nested_models(annotation: Any, path: str) -> Iterator[tuple[type[BaseModel], str]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation, path
    inside = f"{path}.*" if get_origin(annotation) is list else path
    for argument in get_args(annotation):
        yield from nested_models(argument, inside)


def is_refused(info: FieldInfo) -> bool:
    return any("refuse_unless" in repr(mark) for mark in info.metadata)


def is_advisory(info: FieldInfo) -> bool:
    return any(isinstance(mark, AdvisoryMark) for mark in info.metadata)
