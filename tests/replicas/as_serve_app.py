"""Runs the application of docker/ray/serve.yaml with another model on a Ray of its own, asks it,
and prints the answers as JSON.

    python -m tests.replicas.as_serve_app MODEL CACHE
"""

import importlib
import json
import os
import socket
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import yaml
from ray import serve

from server.replicas.cluster import Cluster

FILE = Path(__file__).parents[2] / "docker" / "ray" / "serve.yaml"
BODY = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 24, "temperature": 0}


def ask(url: str) -> dict[str, Any]:
    with httpx.Client(base_url=url, timeout=60) as client:
        stream = client.post("/v1/chat/completions", json=BODY | {"stream": True})
        several = client.post("/v1/chat/completions", json=BODY | {"n": 4, "seed": 1})
        stored = client.post("/v1/responses", json={"input": "Hi", "max_output_tokens": 4}).json()
        answer = client.post("/v1/chat/completions", json=BODY).json()
        return {
            "id": answer["id"],
            "answer": answer["choices"],
            "stream": stream.text,
            "several": len(several.json()["choices"]),
            "stored": client.get(f"/v1/responses/{stored['id']}").json()["id"] == stored["id"],
            "wrong": client.post("/v1/chat/completions", json={"messages": []}).json(),
            "ready": client.get("/ready").status_code,
            "metrics": client.get("/metrics").text,
        }


def until_logged(logs: Path, name: str) -> str:
    """What the processes of Ray have written, once it has that name."""
    text, deadline = "", time.monotonic() + 60
    while name not in text and time.monotonic() < deadline:
        time.sleep(0.1)
        text = "".join(file.read_text() for file in logs.glob("worker-*.err"))
    return text


def main() -> None:
    model, cache = sys.argv[1:]
    config = yaml.safe_load(FILE.read_text())
    (app,) = config["applications"]
    given = app["args"] | {"model": model, "cache_dir": cache, "dtype": "float32"}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    Cluster(num_cpus=2)
    worker = importlib.import_module("ray._private.worker")
    logs = Path(worker.global_worker.node.get_logs_dir_path())
    http = config["http_options"] | {"host": "127.0.0.1", "port": port}
    serve.start(proxy_location=config["proxy_location"], http_options=http)
    module, name = app["import_path"].split(":")
    built = getattr(importlib.import_module(module), name)(given)
    serve.run(built, name=app["name"], route_prefix=app["route_prefix"])
    found = ask(f"http://127.0.0.1:{port}")
    found["log"] = until_logged(logs, found["id"])
    sys.stdout.write(json.dumps(found) + "\n")
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
