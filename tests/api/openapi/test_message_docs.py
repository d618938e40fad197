"""The table of fields of `/v1/messages` in docs/api.md says what the code does."""

from typing import Final

from anthropic.types import message_create_params as params
from anthropic.types.beta import message_create_params as beta_params

from server.api.messages.schema.request import MessageRequest
from tests.api.openapi.documented import Field, fields, is_advisory, is_refused, table

FIELDS: dict[str, list[Field]] = {}
for each in fields("messages", MessageRequest):
    FIELDS.setdefault(each.path.replace("schema_", "schema"), []).append(each)

HEADERS: Final = {"betas", "user_profile_id", "workspace_id"}
"""Parameters of the client that become headers."""

ANTHROPICS = {
    *params.MessageCreateParamsBase.__annotations__,
    *params.MessageCreateParamsStreaming.__annotations__,
    *beta_params.MessageCreateParamsBase.__annotations__,
} - HEADERS
STATUSES = {path: status for path, status, _ in table("Messages")}


def test_every_field_is_documented_and_no_other() -> None:
    assert len(table("Messages")) == len(STATUSES)
    assert STATUSES.keys() == FIELDS.keys()


def test_the_status_of_every_field() -> None:
    for path, found in FIELDS.items():
        expected = "supported" if path.split(".")[0] in ANTHROPICS else "extension"
        if all(is_advisory(field.info) for field in found):
            expected = "advisory"
        if all(is_refused(field.info) for field in found):
            expected = "refused"
        assert not any(is_refused(field.info) for field in found) or expected == "refused"
        assert STATUSES[path] == expected, path


def test_all_of_anthropics_fields_are_known() -> None:
    """A new one of the installed SDK must be implemented, or refused by name in any mode."""
    assert ANTHROPICS <= FIELDS.keys()
