"""Debian's own Prometheus scrapes a live server: what dashboards and rules ask for is there."""

import json
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.docker.dashboard_picture import Series, draw_dashboard
from tests.live import LiveServer, serve
from tests.pictures import picture

DOCKER = Path(__file__).parents[2] / "docker"
DASHBOARD = DOCKER / "grafana/dashboards/glidecape.json"
RULES = sorted((DOCKER / "rules").glob("*.yml"))


def program(name: str) -> str:
    """`make prometheus` puts them beside this Python, where the machine has none."""
    found = shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))
    if found is None:
        pytest.fail(f"{name} is missing: `make prometheus` fetches it")
    return found


def promtool(*arguments: str | Path) -> None:
    """Fails with what it prints."""
    command = [program("promtool"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_config_and_rules_are_valid() -> None:
    promtool("check", "config", DOCKER / "prometheus.yml")
    promtool("check", "rules", "--lint=all", "--lint-fatal", *RULES)


def test_alerts_fire_when_they_should() -> None:
    promtool("test", "rules", Path(__file__).with_name("alerts_test.yml"))


def filled_in(query: str) -> str:
    """As Grafana would send it; ten seconds stand for its interval and its range."""
    return (
        query.replace("$__rate_interval", "10s").replace("$__range", "10s").replace("$model", ".*")
    )


def dashboard_panels() -> list[dict[str, Any]]:
    return json.loads(DASHBOARD.read_text())["panels"]


def dashboard_queries() -> list[str]:
    return [
        filled_in(target["expr"])
        for panel in dashboard_panels()
        for target in panel.get("targets", [])
    ]


def rule_queries() -> list[str]:
    """Alerts' comparisons say 0 or 1: nothing is to fire here, but all is to be there."""
    groups = [group for file in RULES for group in yaml.safe_load(file.read_text())["groups"]]
    rules = [rule for group in groups for rule in group["rules"]]
    return [
        re.sub(r" ([<>]) ", r" \1 bool ", rule["expr"]) if "alert" in rule else rule["expr"]
        for rule in rules
    ]


@contextmanager
def prometheus(folder: Path, target: str) -> Generator[str]:
    """One that scrapes `target` each second by our configuration → its URL."""
    config = yaml.safe_load((DOCKER / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(file) for file in RULES]
    config["scrape_configs"][0]["static_configs"] = [{"targets": [target]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [
                program("prometheus"),
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={address}",
            ],
            stderr=log,
        )
    try:
        yield f"http://{address}"
    finally:
        process.terminate()
        process.wait(timeout=60)


def has_data(client: httpx.Client, query: str) -> bool:
    """A number, not only NaN: 0 / 0 is one too."""
    try:
        answer = client.get("/api/v1/query", params={"query": query})
    except httpx.TransportError:
        return False  # it is starting
    if answer.status_code == 503:
        return False
    assert answer.status_code == 200, f"{query}: {answer.text}"
    return any(sample["value"][1] != "NaN" for sample in answer.json()["data"]["result"])


def send_load(server: LiveServer, policy: str) -> None:
    body = {
        "messages": [{"role": "user", "content": "List the days of the week, twice."}],
        "max_tokens": 60,
        "speculation": {"policy": policy},
    }
    url = f"{server.url}/v1/chat/completions"
    httpx.post(url, json=body, timeout=60).raise_for_status()


def legend(template: str, labels: dict[str, str]) -> str:
    return re.sub(r"{{(\w+)}}", lambda match: labels.get(match[1], ""), template)


def lines_of(client: httpx.Client, target: dict[str, Any], begin: float) -> list[Series]:
    """What a panel's query answers since `begin`, named by its legend."""
    query = {"query": filled_in(target["expr"]), "start": begin, "end": time.time(), "step": 1}
    answer = client.get("/api/v1/query_range", params=query).raise_for_status().json()
    return [
        Series(
            legend(target["legendFormat"], line["metric"]),
            [float(when) - begin for when, _ in line["values"]],
            [float(value) for _, value in line["values"]],
        )
        for line in answer["data"]["result"]
    ]


@pytest.mark.real_model
def test_every_query_finds_data(tmp_path: Path) -> None:
    """And every panel, drawn from half a minute of it, shows something."""
    queries = dashboard_queries() + rule_queries()
    assert len(queries) > 40
    begin = time.time()
    with (
        serve() as server,
        prometheus(tmp_path, server.url.removeprefix("http://")) as asked,
        httpx.Client(base_url=asked) as client,
        ThreadPoolExecutor(4) as clients,
    ):
        while time.time() < begin + 30 or (queries and time.time() < begin + 60):
            policies = ["auto", "auto", "off", "cape", "chain"]
            list(clients.map(partial(send_load, server), policies))
            queries = [query for query in queries if not has_data(client, query)]
        assert queries == []
        panels = {
            panel["title"]: (
                panel["gridPos"],
                [line for target in panel["targets"] for line in lines_of(client, target, begin)],
            )
            for panel in dashboard_panels()
            if "targets" in panel
        }
    draw_dashboard(panels, picture("dashboard"))
    assert [title for title, (_, lines) in panels.items() if not lines] == []
