"""Settings of the middleware, and what is wrong with them said at the start."""

from pathlib import Path

import pytest

from server.api.http.certificates import check_tls
from server.api.middleware.stack import middleware_config
from server.config import ServerSettings, load_settings
from server.errors import ConfigError


def settings(**given: object) -> ServerSettings:
    return load_settings(ServerSettings, **given)


def test_the_default_is_open() -> None:
    middleware = middleware_config(settings())
    assert middleware.api_keys is None
    assert middleware.cors_origins == ()
    assert not middleware.drops_unknown_fields
    assert middleware.limits.max_per_key is None


def test_keys_from_everywhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("filed\n")
    monkeypatch.setenv("GLIDECAPE_API_KEY", "one, two")
    monkeypatch.setenv("GLIDECAPE_API_KEY_FILE", str(file))
    keys = middleware_config(settings()).api_keys
    assert keys is not None
    for key in (b"one", b"two", b"filed"):
        assert keys.find(key) is not None


def test_keys_are_not_printed_with_the_settings() -> None:
    assert "sesame" not in repr(settings(api_key=["sesame"]))


@pytest.mark.parametrize("text", ["", " , "])
def test_a_variable_without_a_key_opens_no_server(
    text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As `GLIDECAPE_API_KEY=$UNSET glidecape serve`, also beside a file with keys."""
    file = tmp_path / "keys"
    file.write_text("filed\n")
    monkeypatch.setenv("GLIDECAPE_API_KEY", text)
    for given in ({}, {"api_key_file": str(file)}):
        with pytest.raises(ConfigError, match=r"^api_key=.*has no entry.*\(GLIDECAPE_API_KEY\)$"):
            settings(**given)
    keys = middleware_config(settings(api_key=["option"])).api_keys
    assert keys is not None and keys.find(b"option") is not None


def test_a_list_without_a_key_opens_no_server() -> None:
    """As Ray's file of settings might have it."""
    with pytest.raises(
        ConfigError, match=r"^api_key='': is set but has no entry; .* leave it out$"
    ):
        settings(api_key="")


@pytest.mark.parametrize("name", ["api_key_file", "ssl_certfile", "ssl_keyfile"])
def test_an_empty_name_of_a_file_is_no_missing_one(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A variable that is empty must not take away keys or TLS without a word."""
    monkeypatch.setenv(f"GLIDECAPE_{name.upper()}", "")
    with pytest.raises(ConfigError, match=f"^{name}='.'"):
        given = settings()
        check_tls(given.ssl_certfile, given.ssl_keyfile)
        middleware_config(given)


def test_limits() -> None:
    middleware = middleware_config(
        settings(
            api_key=["k"],
            max_body_size="512K",
            max_concurrent_requests="3",
            max_queued_requests="0",
            max_concurrent_per_key="2",
            unknown_fields="warn",
        )
    )
    assert middleware.max_body_size == 512 * 1024
    limits = middleware.limits
    assert (limits.max_running, limits.max_waiting, limits.max_per_key) == (3, 0, 2)
    assert middleware.drops_unknown_fields


def test_a_limit_per_key_needs_keys() -> None:
    with pytest.raises(ConfigError, match="max_concurrent_per_key=2: needs api_key"):
        middleware_config(settings(max_concurrent_per_key="2"))


def test_origins() -> None:
    given = "https://a.example.com, http://localhost:3000,localhost,*"
    expected = ("https://a.example.com", "http://localhost:3000", "localhost", "*")
    assert middleware_config(settings(cors_origins=given)).cors_origins == expected


@pytest.mark.parametrize(
    "origin", ["example.com", "https://example.com/", "https://a.com/app", "https://", "//a.com"]
)
def test_an_origin_that_no_browser_sends(origin: str) -> None:
    with pytest.raises(ConfigError, match="cors_origins") as caught:
        middleware_config(settings(cors_origins=origin))
    assert repr(origin) in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("max_concurrent_requests", "0"),
        ("max_concurrent_per_key", "0"),
        ("max_queued_requests", "-1"),
        ("max_body_size", "0"),
        ("max_body_size", "much"),
        ("unknown_fields", "ignore"),
    ],
)
def test_bad_values_are_named(key: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"{key}='{value}'"):
        settings(**{key: value})
