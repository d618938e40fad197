"""The playground's page and files: who gets them, and with which headers."""

from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from server.api.middleware.api_keys import ApiKeys
from server.api.service.playground import FOLDER
from tests.api.harness import CHAT, MIDDLEWARE, assert_error, chat_body, in_process, make_app
from tests.doubles import ScriptedEngine, one_by_one

FILES = sorted(path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*") if path.is_file())
LOCKED = replace(MIDDLEWARE, api_keys=ApiKeys(["secret"]))
APP = make_app(ScriptedEngine([]), middleware=LOCKED)


@pytest.mark.parametrize("path", ["/", "/docs"])
async def test_a_page_needs_no_key_and_asks_no_other_origin(path: str) -> None:
    async with in_process(APP) as client:
        response = await client.get(path)
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    policy = policy_of(response)
    assert policy["default-src"] == "'none'"
    assert policy["frame-ancestors"] == "'none'"
    assert all("unsafe" not in value and "http" not in value for value in policy.values())
    assert response.headers["x-content-type-options"] == "nosniff"
    assert "http://" not in response.text
    assert "https://" not in response.text


@pytest.mark.parametrize("base", ["http://test", "http://test/behind/a/proxy"])
@pytest.mark.parametrize("end", ["/", "/?a=b"])
async def test_slashes_at_a_page_s_end_change_nothing(base: str, end: str) -> None:
    """Its links are relative, and would lead elsewhere from below it."""
    async with in_process(APP) as client:
        response = await client.get(f"/docs{end}")
    assert response.status_code == 308
    assert httpx.URL(f"{base}/docs{end}").join(response.headers["location"]) == f"{base}/docs"


def policy_of(response: httpx.Response) -> dict[str, str]:
    value = response.headers["content-security-policy"]
    return dict(part.split(" ", 1) for part in value.split("; "))


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/openapi.json", 200),
        ("GET", "/metrics", 200),
        ("GET", "/health", 200),
        ("GET", "/static/app/main.js", 200),
        ("GET", "/static/nothing.js", 404),
        ("GET", "/v1/models", 401),
        ("GET", "/redoc", 401),
        ("POST", "/", 405),
        ("POST", CHAT, 401),
    ],
)
async def test_every_answer_has_the_security_headers(method: str, path: str, status: int) -> None:
    async with in_process(APP) as client:
        response = await client.request(method, path)
    assert response.status_code == status
    assert policy_of(response)["default-src"] == "'none'"
    assert policy_of(response)["frame-ancestors"] == "'none'"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["referrer-policy"] == "no-referrer"


async def test_so_has_a_stream_and_an_answer_to_a_crash() -> None:
    class Broken(ScriptedEngine):
        def check_health(self) -> None:
            raise RuntimeError("a bug")

    async with in_process(make_app(Broken(one_by_one("ab")))) as client:
        crash = await client.get("/health")
        stream = await client.post(CHAT, json=chat_body(stream=True))
    assert (crash.status_code, stream.status_code) == (500, 200)
    for response in (crash, stream):
        assert policy_of(response)["frame-ancestors"] == "'none'"
        assert response.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("name", FILES)
async def test_every_file_is_served(name: str) -> None:
    async with in_process(APP) as client:
        response = await client.get(f"/static/{name}")
        assert response.status_code == 200
        assert response.content == (FOLDER / name).read_bytes()
        if Path(name).suffix == ".js":
            assert response.headers["content-type"] == "text/javascript; charset=utf-8"
        kept = "immutable" in response.headers["cache-control"]
        assert kept == name.startswith("vendor/")
        etag = {"if-none-match": response.headers["etag"]}
        again = await client.get(f"/static/{name}", headers=etag)
    assert again.status_code == 304
    assert again.headers["cache-control"] == response.headers["cache-control"]


@pytest.mark.parametrize("path", ["nothing.js", "", "css", "%2e%2e/app.py", "../app.py", "x%00"])
async def test_nothing_else_is(path: str) -> None:
    async with in_process(APP) as client:
        response = await client.get(f"/static/{path}")
    assert response.status_code in (401, 404)
    assert "create_app" not in response.text


async def test_other_methods_are_refused() -> None:
    async with in_process(APP) as client:
        assert_error(await client.post("/"), 405, "method_not_allowed")


def test_each_vendored_library_has_its_licence() -> None:
    vendor = FOLDER / "vendor"
    notice = (vendor / "NOTICE.md").read_text()
    folders = [path for path in vendor.iterdir() if path.is_dir()]
    assert len(folders) == 4
    for folder in folders:
        assert (folder / "LICENSE").is_file()
        assert f"`{folder.name}`" in notice
