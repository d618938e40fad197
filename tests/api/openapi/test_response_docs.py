"""The table of fields of `/v1/responses` in docs/api.md says what the code does."""

from openai.types.responses import response_create_params as params

from server.api.responses.schema.request import ResponseRequest
from tests.api.openapi.documented import Field, fields, is_advisory, is_refused, table

FIELDS: dict[str, list[Field]] = {}
for each in fields("responses", ResponseRequest):
    FIELDS.setdefault(each.path.replace("schema_", "schema"), []).append(each)

OPENAI = {
    *params.ResponseCreateParamsBase.__annotations__,
    *params.ResponseCreateParamsStreaming.__annotations__,
}
STATUSES = {path: status for path, status, _ in table("Responses")}


def test_every_field_is_documented_and_no_other() -> None:
    assert len(table("Responses")) == len(STATUSES)
    assert STATUSES.keys() == FIELDS.keys()


def test_the_status_of_every_field() -> None:
    for path, found in FIELDS.items():
        expected = "supported" if path.split(".")[0] in OPENAI else "extension"
        if all(is_advisory(field.info) for field in found):
            expected = "advisory"
        if all(is_refused(field.info) for field in found):
            expected = "refused"
        assert not any(is_refused(field.info) for field in found) or expected == "refused"
        assert STATUSES[path] == expected, path


def test_all_of_openais_fields_are_known() -> None:
    """A new one of the installed SDK must be implemented, or refused by name in any mode."""
    assert OPENAI <= FIELDS.keys()
