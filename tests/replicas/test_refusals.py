"""What is refused before any replica starts: exit code 2 and one line that says why."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from server.config import ModelSettings, ServerSettings, load_settings
from server.errors import ConfigError, StartupError
from server.replicas.cluster import Available, Machine, check_address, check_ray
from server.replicas.sizes import Share, share_out
from tests.live import run_glidecape
from tests.weights.train.checkpoints import write_checkpoint

SERVE = "serve", "--port", "0"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_checkpoint(tmp_path_factory.mktemp("refused") / "model"))


@pytest.fixture
def deaf_port() -> Iterator[int]:
    """A port at which nobody listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


def refused(*arguments: str) -> str:
    """The one line that it says."""
    done = run_glidecape(*SERVE, *arguments)
    lines = done.stderr.strip().splitlines()
    assert done.returncode == 2, done.stderr
    assert lines[-1].startswith("glidecape: "), done.stderr
    assert "Traceback" not in done.stderr
    return lines[-1].removeprefix("glidecape: ")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"autoscale": "4:2"}, "autoscale='4:2': expected MIN:MAX with 1 ≤ MIN ≤ MAX ≤ 1024"),
        ({"autoscale": "0:2"}, "autoscale='0:2': expected MIN:MAX with 1 ≤ MIN"),
        ({"autoscale": "many"}, "autoscale='many': expected MIN:MAX such as 1:4"),
        ({"autoscale": "1:2", "replicas": "5"}, "replicas=5 is outside of autoscale=1:2"),
        ({"replicas": "0"}, "replicas='0'"),
    ],
)
def test_settings(given: dict[str, object], says: str) -> None:
    with pytest.raises(StartupError) as caught:
        load_settings(ServerSettings, api_key=["secret"], **given)
    assert str(caught.value).startswith(says)
    assert "secret" not in str(caught.value)


def test_more_replicas_than_the_memory_holds(model: str) -> None:
    said = refused("--model", model, "--replicas", "1000", "--kv-memory", "1G")
    assert said.startswith("replicas=1000: they need 1,3")
    assert "GiB each, and" in said and said.endswith("GiB of memory are free")


def test_a_cluster_that_does_not_answer(
    model: str, deaf_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{deaf_port}")
    said = refused("--model", model, "--replicas", "2")
    assert said.startswith(f"RAY_ADDRESS='127.0.0.1:{deaf_port}': no cluster answers within")


@pytest.mark.parametrize("address", ["ray://127.0.0.1:10001", "here", "127.0.0.1:port"])
def test_an_address_that_is_none(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ConfigError) as caught:
        check_address()
    assert str(caught.value).startswith(f"RAY_ADDRESS={address!r}: expected HOST:PORT")


def test_a_port_in_use_is_found_before_ray_is(model: str) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        port = held.getsockname()[1]
        said = refused("--port", str(port), "--model", model, "--replicas", "2")
    assert said.startswith(f"port={port}: can't listen on")


def test_a_cluster_that_has_such_replicas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "local")
    check_ray()
    from server.replicas import deployment

    status = SimpleNamespace(applications={"another": None})
    monkeypatch.setattr(deployment.serve, "status", lambda: status)
    deployment.check_name_is_free()
    status.applications["glidecape"] = None
    with pytest.raises(StartupError, match="runs an application 'glidecape' already"):
        deployment.check_name_is_free()


def test_every_replica_has_the_precision_that_was_chosen_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of machines of different kinds each would choose its own."""
    monkeypatch.setenv("RAY_ADDRESS", "local")
    check_ray()
    from server.replicas import deployment

    chosen = {"auto": torch.float32, "bfloat16": torch.bfloat16}
    monkeypatch.setattr(deployment, "pick_dtype", lambda wanted, device: chosen[wanted])
    for given, expected in (({}, "float32"), ({"dtype": "bfloat16"}, "bfloat16")):
        settings = load_settings(ServerSettings, **given)
        sent = deployment.replica_settings(
            settings, "tiny", device="cpu", threads=None, kv_fraction=None
        )
        assert load_settings(ModelSettings, **sent.model).dtype == expected


def test_gpus_of_a_replica_where_there_is_none(model: str) -> None:
    said = refused("--model", model, "--num-gpus-per-replica", "1")
    assert said.startswith("num_gpus_per_replica=1: counts only with replicas")


def run_without(module: str, *arguments: str, then: str = "") -> subprocess.CompletedProcess[str]:
    """The command where a module can't be imported."""
    code = (
        f"import sys\nsys.modules[{module!r}] = None\nimport server.cli\n{then}\nserver.cli.main()"
    )
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("module", ["ray", "zmq"])
def test_without_what_it_brings_the_extra_is_named(model: str, module: str) -> None:
    done = run_without(module, *SERVE, "--model", model, "--replicas", "2")
    assert done.returncode == 2
    assert "needs the extra ray: pip install 'glidecape[ray]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_one_engine_does_without_ray(model: str, tmp_path: Path) -> None:
    """It loads, and ends where it would serve."""
    then = "import uvicorn\nuvicorn.Server.run = lambda *_, **__: None"
    options = "--model", model, "--cache-dir", str(tmp_path), "--dtype", "float32"
    done = run_without("ray", *SERVE, *options, then=then)
    assert done.returncode == 0, done.stderr
    assert "Serving model on" in done.stderr


CPUS, GPUS = Available("here", (Machine(8, 0),)), Available("here", (Machine(8, 4),))
SEVERAL = Available("here", (Machine(48, 0), Machine(8, 0), Machine(0, 0)))
PAIR = Available("here", (Machine(8, 3), Machine(8, 1)))
NONE = Available("here", ())
HERE = Available("this machine", (Machine(8, 0),))


@pytest.mark.parametrize(
    ("given", "available", "num_replicas", "expected"),
    [
        ({}, CPUS, (2, 2), Share("cpu", 4, 0)),
        ({}, CPUS, (3, 3), Share("cpu", 2, 0)),
        ({}, CPUS, (1, 4), Share("cpu", 2, 0)),
        ({}, CPUS, (8, 20), Share("cpu", 1, 0)),
        ({}, HERE, (20, 20), Share("cpu", 1, 0)),
        ({}, SEVERAL, (1, 1), Share("cpu", 48, 0)),
        ({}, SEVERAL, (2, 2), Share("cpu", 24, 0)),
        ({}, SEVERAL, (1, 6), Share("cpu", 8, 0)),
        ({}, SEVERAL, (1, 7), Share("cpu", 8, 0)),
        ({}, SEVERAL, (8, 8), Share("cpu", 6, 0)),
        ({"threads": 3}, CPUS, (2, 2), Share("cpu", 3, 0)),
        ({"threads": 30}, HERE, (2, 2), Share("cpu", 30, 0)),
        ({"device": "cpu"}, GPUS, (2, 2), Share("cpu", 4, 0)),
        ({}, GPUS, (4, 4), Share("cuda", 1, 1)),
        ({}, GPUS, (2, 9), Share("cuda", 1, 1)),
        ({}, PAIR, (4, 4), Share("cuda", 1, 1)),
        ({}, NONE, (0, 2), Share("cpu", 1, 0)),
        ({"threads": 4}, NONE, (0, 2), Share("cpu", 4, 0)),
        ({"device": "cuda", "tensor_parallel_size": 2}, NONE, (0, 2), Share("cuda", 1, 2)),
        ({"tensor_parallel_size": 2}, GPUS, (2, 2), Share("cuda", 1, 2)),
        ({"tensor_parallel_size": 3}, PAIR, (1, 1), Share("cuda", 1, 3)),
        ({"num_gpus_per_replica": 2}, GPUS, (1, 1), Share("cuda", 1, 2)),
    ],
)
def test_shares(
    given: dict[str, object], available: Available, num_replicas: tuple[int, int], expected: Share
) -> None:
    settings = load_settings(ServerSettings, **given)
    assert share_out(settings, available, *num_replicas) == expected


@pytest.mark.parametrize(
    ("given", "available", "num_replicas", "says"),
    [
        ({}, GPUS, 5, "replicas=5: they need 5 GPUs, here has 4"),
        ({"tensor_parallel_size": 2}, GPUS, 3, "replicas=3: they need 6 GPUs, here has 4"),
        ({"device": "cuda"}, CPUS, 2, "replicas=2: they need 2 GPUs, here has 0"),
        (
            {"tensor_parallel_size": 2},
            PAIR,
            2,
            "replicas=2: each needs 1 CPUs and 2 GPUs of one machine, for which here has 1 places",
        ),
        (
            {"threads": 9},
            CPUS,
            1,
            "replicas=1: each needs 9 CPUs and 0 GPUs of one machine, for which here has 0 places",
        ),
        (
            {},
            CPUS,
            9,
            "replicas=9: each needs 1 CPUs and 0 GPUs of one machine, for which here has 8 places",
        ),
        ({"num_gpus_per_replica": 1}, CPUS, 2, "num_gpus_per_replica=1: here has no GPU"),
        (
            {"num_gpus_per_replica": 1, "tensor_parallel_size": 2},
            GPUS,
            1,
            "num_gpus_per_replica=1: tensor_parallel_size=2 needs as many",
        ),
    ],
)
def test_no_room(
    given: dict[str, object], available: Available, num_replicas: int, says: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        share_out(load_settings(ServerSettings, **given), available, num_replicas, num_replicas)
    assert str(caught.value).startswith(says)
