"""Debian's own Prometheus scrapes a live server: what dashboards and rules ask for is there."""

import json
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.browser.servers import in_thread, real_engine

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


def dashboard_queries() -> list[str]:
    """As Grafana would send them; a minute stands for its interval and its range."""
    panels: list[dict[str, Any]] = json.loads(DASHBOARD.read_text())["panels"]
    queries = [target["expr"] for panel in panels for target in panel.get("targets", [])]
    return [
        query.replace("$__rate_interval", "1m").replace("$__range", "1m").replace("$model", ".*")
        for query in queries
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
        process.wait(timeout=30)


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


def send_load(url: str) -> None:
    for policy in ("chain", "cape"):
        body = {
            "messages": [{"role": "user", "content": "abcabcabcabcabcabc"}],
            "max_tokens": 24,
            "speculation": {"policy": policy},
        }
        httpx.post(f"{url}/v1/chat/completions", json=body).raise_for_status()


def test_every_query_finds_data(tmp_path: Path) -> None:
    queries = dashboard_queries() + rule_queries()
    assert len(queries) > 40
    deadline = time.monotonic() + 40
    with (
        in_thread(real_engine) as url,
        prometheus(tmp_path, url.removeprefix("http://")) as asked,
        httpx.Client(base_url=asked) as client,
    ):
        while queries and time.monotonic() < deadline:
            send_load(url)
            queries = [query for query in queries if not has_data(client, query)]
            time.sleep(0.5)
    assert queries == []
