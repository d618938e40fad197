"""docker/ray/rayservice.yaml: its fields are KubeRay's and Kubernetes', and it serves what
docker/ray/serve.yaml serves. It has run in no cluster."""

from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from server.config import ServerSettings, load_settings
from tests.docker.custom_resources import SCHEMAS
from tests.docker.settings import named

ROOT = Path(__file__).parents[2]
MANIFEST: dict[str, Any] = yaml.safe_load((ROOT / "docker/ray/rayservice.yaml").read_text())
SERVED: dict[str, Any] = yaml.safe_load(MANIFEST["spec"]["serveConfigV2"])
CLUSTER: dict[str, Any] = MANIFEST["spec"]["rayClusterConfig"]
(ENGINES,) = CLUSTER["workerGroupSpecs"]
PODS: dict[str, dict[str, Any]] = {
    "head": CLUSTER["headGroupSpec"]["template"],
    "engines": ENGINES["template"],
}

each_pod = pytest.mark.parametrize("pod", PODS)


def container(pod: str) -> dict[str, Any]:
    (found,) = PODS[pod]["spec"]["containers"]
    return found


def test_the_fields_are_kuberays() -> None:
    jsonschema.validate(MANIFEST, SCHEMAS["RayService"])
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(MANIFEST | {"specs": {}}, SCHEMAS["RayService"])


@each_pod
def test_pods_are_kubernetes(pod: str) -> None:
    whole = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": pod}, **PODS[pod]}
    kubernetes_validate.validate(whole, "1.37", strict=True)


@each_pod
def test_pods_are_the_images(pod: str) -> None:
    """The image's user, volume and port; the image is the one that is built with Ray."""
    spec = PODS[pod]["spec"]
    assert [str(spec["securityContext"]["runAsUser"])] == named("USER")
    mounts = {mount["mountPath"]: mount["name"] for mount in container(pod)["volumeMounts"]}
    assert set(named("VOLUME")) <= set(mounts)
    assert set(mounts.values()) == {volume["name"] for volume in spec["volumes"]}
    build = f"docker build -t {container(pod)['image'].split(':')[0]} --build-arg EXTRAS=otel,ray"
    assert build in (ROOT / "Dockerfile").read_text()
    drain = load_settings(ServerSettings, **SERVED["applications"][0]["args"]).drain_seconds
    assert spec["terminationGracePeriodSeconds"] > drain


def test_it_serves_what_the_other_file_serves() -> None:
    other = yaml.safe_load((ROOT / "docker/ray/serve.yaml").read_text())
    places = {"proxy_location": "EveryNode"}
    (app,), (others,) = SERVED["applications"], other["applications"]
    assert SERVED == {**other, **places, "applications": [app]}
    assert app == {**others, "args": {**others["args"], "threads": 2}}


def test_the_cluster_has_room_for_the_replicas() -> None:
    (app,) = SERVED["applications"]
    settings = load_settings(ServerSettings, **app["args"])
    assert settings.threads == int(container("engines")["resources"]["limits"]["cpu"])
    assert settings.replicas == ENGINES["replicas"] == ENGINES["minReplicas"]
    port = str(SERVED["http_options"]["port"])
    assert [port] == named("EXPOSE")
    assert {"name": "serve", "containerPort": int(port)} in container("head")["ports"]
    assert f":{port}/-/healthz" in container("engines")["readinessProbe"]["exec"]["command"][-1]


def test_the_version_is_the_installed_one() -> None:
    assert f"\nray=={CLUSTER['rayVersion']}\n" in (ROOT / "constraints.txt").read_text()
