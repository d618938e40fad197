"""The server as an application of a Ray cluster, as docker/ray/serve.yaml has it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from server.config import ServerSettings, load_settings
from server.errors import ConfigError
from server.replicas.cluster import check_ray
from tests.weights.train.checkpoints import write_checkpoint

FILE = Path(__file__).parents[2] / "docker" / "ray" / "serve.yaml"


def test_the_file_names_settings_that_there_are() -> None:
    (app,) = yaml.safe_load(FILE.read_text())["applications"]
    assert load_settings(ServerSettings, **app["args"]).replicas == 2


def test_its_schema_is_serves() -> None:
    """In a process of its own: importing Ray warns."""
    code = (
        "import sys, yaml; from ray.serve.schema import ServeDeploySchema; "
        "ServeDeploySchema.model_validate(yaml.safe_load(open(sys.argv[1])))"
    )
    subprocess.run([sys.executable, "-c", code, str(FILE)], check=True, timeout=120)


GIVEN = {
    **dict.fromkeys(("host", "ssl_certfile", "ssl_keyfile"), "x"),
    **dict.fromkeys(("port", "max_connections", "max_connections_per_client"), 8),
    **dict.fromkeys(("max_head_size", "head_seconds", "body_seconds"), 4096),
    **dict.fromkeys(("keep_alive_seconds", "send_seconds"), 9),
    "exit_on_engine_death": False,
    "api_key": "secret",
}
"""Settings that an application of Serve has not, with values that `glidecape serve` takes."""


@pytest.mark.parametrize("name", GIVEN)
def test_settings_that_would_not_count_are_refused(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "local")
    check_ray()
    from server.serve_app import REFUSED, build

    assert set(REFUSED) == set(GIVEN) <= set(ServerSettings.model_fields)
    load_settings(ServerSettings, **{name: GIVEN[name]})
    with pytest.raises(ConfigError) as caught:
        build({"replicas": 2, name: GIVEN[name]})
    assert str(caught.value).startswith(f"{name}=")
    assert "secret" not in str(caught.value)


def test_it_serves_behind_serves_own_proxy(tmp_path: Path) -> None:
    model = write_checkpoint(tmp_path / "model")
    program = "-m", "tests.replicas.as_serve_app", str(model), str(tmp_path / "cache")
    done = subprocess.run(
        [sys.executable, *program],
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
        # Serve ends a proxy that does not answer within five seconds, which a busy machine takes.
        env=os.environ | {"HOME": str(tmp_path), "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60"},
    )
    assert not (tmp_path / ".ray").exists()  # Ray's token
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    (choice,) = found["answer"]
    events = [json.loads(line[6:]) for line in found["stream"].splitlines() if "data: {" in line]
    text = "".join(event["choices"][0]["delta"].get("content") or "" for event in events)
    assert text == choice["message"]["content"] != ""
    assert found["stream"].rstrip().endswith("data: [DONE]")
    assert found["several"] == 4
    assert found["stored"] is True
    assert found["wrong"]["error"]["param"] == "messages"
    assert found["ready"] == 200
    assert f"id={found['id']} " in found["log"]
    lines = found["metrics"].splitlines()
    running = [line for line in lines if line.startswith("glidecape:num_requests_running{")]
    assert len({line.split('replica="')[1] for line in running}) == 2
