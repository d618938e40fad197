"""Settings: defaults, environment, overrides, and errors that name the key."""

import json
from pathlib import Path

import pytest

from server.config import ModelSettings, ServerSettings, as_given, load_settings
from server.errors import ConfigError
from server.setting_types import parse_bytes


def test_overrides_beat_the_environment_beats_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLIDECAPE_PORT", "9001")
    monkeypatch.setenv("GLIDECAPE_BLOCK_SIZE", "32")
    settings = load_settings(ServerSettings, port="9002", threads=None)
    assert (settings.port, settings.block_size, settings.threads) == (9002, 32, None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("512M", 512 * 2**20), ("2G", 2 * 2**30), ("1.5GiB", 3 * 2**29), ("64kb", 65536), ("7", 7)],
)
def test_sizes(text: str, expected: int) -> None:
    assert parse_bytes(text) == expected
    assert load_settings(ModelSettings, kv_memory=text).kv_memory == expected


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("port", "70000"),
        ("port", "http"),
        ("max_model_len", "1"),
        ("kv_memory", "lots"),
        ("kv_memory", "-1G"),
        ("kv_memory_fraction", "1.5"),
        ("dtype", "int3"),
        ("speculation_policy", "fast"),
        ("speculation_nodes", "1"),
        ("max_num_seqs", "0"),
        ("no_such_setting", "1"),
    ],
)
def test_bad_values_are_named(key: str, value: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings(ServerSettings, **{key: value})
    assert caught.value.key == key
    assert f"{key}={value!r}" in str(caught.value)


def test_a_bad_value_of_a_variable_names_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLIDECAPE_BLOCK_SIZE", "many")
    with pytest.raises(ConfigError, match=r"^block_size='many': .* \(GLIDECAPE_BLOCK_SIZE\)$"):
        load_settings(ModelSettings)


def test_every_setting_has_help() -> None:
    for name, field in ServerSettings.model_fields.items():
        assert field.description, name


def test_cache_dir_is_a_path() -> None:
    assert load_settings(ModelSettings, cache_dir="/tmp/x").cache_dir == Path("/tmp/x")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("GLIDECAPE_MODLE", "GLIDECAPE_MODEL"),
        ("GLIDECAPE_KV_MEM", "GLIDECAPE_KV_MEMORY"),
        ("glidecape_max_num_seq", "GLIDECAPE_MAX_NUM_SEQS"),
        ("GLIDECAPE_API_KEYS", "GLIDECAPE_API_KEY"),
    ],
)
def test_a_variable_that_is_no_setting_is_named(
    name: str, meant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without its value: it may be a key."""
    monkeypatch.setenv(name, "secret")
    with pytest.raises(ConfigError, match=f"^{name}='…': .*did you mean {meant}") as refused:
        load_settings(ModelSettings)
    assert "secret" not in str(refused.value)


def test_a_variable_like_no_setting_is_named_without_a_guess(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GLIDECAPE_QQQQ", "1")
    with pytest.raises(ConfigError, match=r"^GLIDECAPE_QQQQ='…': there is no such setting$"):
        load_settings(ModelSettings)


def test_other_peoples_variables_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of a server where only a model is run; those that Kubernetes sets for Services."""
    for name in (
        "GLIDECAPE_API_KEY",
        "GLIDECAPE_CPU_KERNELS",
        "GLIDECAPE_SERVICE_HOST",
        "GLIDECAPE_SERVICE_PORT_HTTP",
        "GLIDECAPE_PORT_8000_TCP_ADDR",
        "GLIDECAPE_GPU_SERVICE_HOST",
        "GLIDECAPE_GPU_PORT",
        "GLIDECAPEX",
        "MY_GLIDECAPE_THING",
    ):
        monkeypatch.setenv(name, "x")
    load_settings(ModelSettings)


def kubernetes_variables(service: str) -> dict[str, str]:
    """What every container of a namespace gets for a Service with one port, by name or not."""
    prefix = service.upper().replace("-", "_")
    url = "tcp://10.96.0.11:8000"
    return {
        f"{prefix}_SERVICE_HOST": "10.96.0.11",
        f"{prefix}_SERVICE_PORT": "8000",
        f"{prefix}_SERVICE_PORT_HTTP": "8000",
        f"{prefix}_PORT": url,
        f"{prefix}_PORT_8000_TCP": url,
        f"{prefix}_PORT_8000_TCP_PROTO": "tcp",
        f"{prefix}_PORT_8000_TCP_PORT": "8000",
        f"{prefix}_PORT_8000_TCP_ADDR": "10.96.0.11",
    }


@pytest.mark.parametrize("service", ["glidecape", "glidecape-gateway", "glidecape-port", "other"])
def test_a_services_variables_are_no_settings(
    service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a Service named like the server too, whose `GLIDECAPE_PORT` is a setting's name."""
    for name, text in kubernetes_variables(service).items():
        monkeypatch.setenv(name, text)
    assert load_settings(ServerSettings) == ServerSettings.model_construct()
    assert load_settings(ServerSettings, port="9000").port == 9000


@pytest.mark.parametrize("text", ["tcp://10.96.0.11", "http://10.96.0.11:8000", "port"])
def test_a_port_that_is_nobodys_address_is_refused(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLIDECAPE_PORT", text)
    with pytest.raises(ConfigError, match=r"^port="):
        load_settings(ServerSettings)


def test_an_address_is_a_services_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """A collector's, for instance, is meant; and as an option it is the user's own mistake."""
    monkeypatch.setenv("GLIDECAPE_OTLP_ENDPOINT", "tcp://10.96.0.11:4318")
    assert load_settings(ServerSettings).otlp_endpoint == "tcp://10.96.0.11:4318"
    with pytest.raises(ConfigError, match=r"^port="):
        load_settings(ServerSettings, port="tcp://10.96.0.11:8000")


@pytest.mark.parametrize("given", [{}, {"kv_memory": "1G", "cape_leaves": "3,2,1,1"}])
def test_settings_are_handed_on_as_they_were_given(
    given: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through JSON; what was not said is not said afterwards, and a server's secrets stay."""
    monkeypatch.setenv("GLIDECAPE_CACHE_DIR", "/somewhere")
    settings = load_settings(ServerSettings, **given, api_key=["secret"])
    handed = json.loads(json.dumps(as_given(settings)))
    assert set(handed) == {*given, "cache_dir"}
    monkeypatch.delenv("GLIDECAPE_CACHE_DIR")
    again = load_settings(ModelSettings, **handed)
    assert again.model_fields_set == set(handed)
    assert all(
        getattr(again, name) == getattr(settings, name) for name in ModelSettings.model_fields
    )
