"""`/v1/messages`: which thoughts of earlier turns the model is shown again."""

from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from server.api.schema.fields import INT32_MAX, RequestModel, branch, by_type, chosen_by

_CLEAR_THINKING = "clear_thinking_20251015"


class AllTurns(RequestModel):
    type: Literal["all"]


class LastTurns(RequestModel):
    type: Literal["thinking_turns"]
    value: Annotated[int, Field(ge=1, le=INT32_MAX)]


def _kind_of_keep(value: object) -> str:
    return "turns" if isinstance(value, dict) else "all"


Keep = Annotated[
    Annotated[Literal["all"], branch("all")]
    | Annotated[
        Annotated[AllTurns, branch("all")] | Annotated[LastTurns, branch("thinking_turns")],
        by_type("all", "thinking_turns"),
        branch("turns"),
    ],
    chosen_by(_kind_of_keep),
]


class ClearThinking(RequestModel):
    """Thoughts are left out of all turns but the latest that have some."""

    type: Literal["clear_thinking_20251015"]
    keep: Keep | None = None
    """The last turn by default."""

    @property
    def num_kept(self) -> int | None:
        """Turns that keep their thoughts; None for all."""
        match self.keep:
            case None:
                return 1
            case LastTurns(value=value):
                return value
            case _:
                return None


def _refuse_edit(value: str) -> str:
    what = f"Only edits of type {_CLEAR_THINKING!r} are supported"
    raise PydanticCustomError("unsupported_field", what)


class OtherEdit(RequestModel):
    """An edit of a type that is not implemented; there is nothing else to say of it."""

    model_config = ConfigDict(extra="ignore")

    type: Annotated[str, AfterValidator(_refuse_edit)]


def _kind_of_edit(value: object) -> str:
    is_other = isinstance(value, dict) and value.get("type") != _CLEAR_THINKING
    return "other" if is_other else "clear_thinking"


class ContextManagement(RequestModel):
    edits: (
        Annotated[
            list[
                Annotated[
                    Annotated[ClearThinking, branch("clear_thinking")]
                    | Annotated[OtherEdit, branch("other")],
                    chosen_by(_kind_of_edit),
                ]
            ],
            Field(max_length=16),
        ]
        | None
    ) = None

    @property
    def num_kept(self) -> int | None:
        """Turns that keep their thoughts; None for all."""
        edits = [edit for edit in self.edits or () if isinstance(edit, ClearThinking)]
        kept = [edit.num_kept for edit in edits if edit.num_kept is not None]
        return min(kept, default=None)
