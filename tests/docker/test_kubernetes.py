"""docker/k8s: Kubernetes' own schemas hold, and what the manifests say is so in the server."""

import re
import shlex
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from server.api.http.server import PARTS_SECONDS
from server.api.service import health
from server.config import ServerSettings, load_settings
from server.observe.metrics import Metrics
from tests.docker.custom_resources import SCHEMAS
from tests.docker.kustomize import Manifest, build, documents, find
from tests.docker.settings import named, settings_of
from tests.docker.test_prometheus import promtool
from tests.test_config import kubernetes_variables

ROOT = Path(__file__).parents[2]
K8S = ROOT / "docker/k8s"
COMPONENTS = K8S / "components"
FOLDERS = [K8S / "base", *sorted((K8S / "overlays").iterdir())]
FLEET = build(K8S / "overlays/gpu-fleet")
"""The one that has every component."""
VERSIONS = ("1.30", "1.37")
"""The first that takes a preStop that sleeps, and the newest whose schemas are at hand."""

each_folder = pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)


def pod(manifests: list[Manifest], name: str = "glidecape") -> dict[str, Any]:
    return find(manifests, "Deployment", name)["spec"]["template"]["spec"]


def server(manifests: list[Manifest]) -> dict[str, Any]:
    (container,) = pod(manifests)["containers"]
    return container


def environment(container: dict[str, Any]) -> dict[str, str]:
    return {entry["name"]: entry["value"] for entry in container["env"] if "value" in entry}


def settings(manifests: list[Manifest]) -> ServerSettings:
    """What the server of these manifests is given; a setting that is none raises."""
    container = server(manifests)
    return settings_of(container["args"], environment(container))


@pytest.mark.parametrize("version", VERSIONS)
@each_folder
def test_manifests_are_kubernetes(folder: Path, version: str) -> None:
    manifests = build(folder)
    for manifest in manifests:
        if manifest["kind"] in SCHEMAS:
            jsonschema.validate(manifest, SCHEMAS[manifest["kind"]])
        else:
            kubernetes_validate.validate(manifest, version, strict=True)
    identities = [(m["kind"], m["metadata"]["name"]) for m in manifests]
    assert len(set(identities)) == len(identities)


def test_what_is_no_field_is_refused() -> None:
    """Else the schemas would say nothing."""
    manifest = find(FLEET, "Service", "glidecape")
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(manifest | {"specs": {}}, VERSIONS[-1], strict=True)
    pool = find(FLEET, "InferencePool", "glidecape")
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(pool | {"specs": {}}, SCHEMAS["InferencePool"])


def test_every_file_is_used() -> None:
    """A manifest that no kustomization names is applied by nobody."""
    values = {COMPONENTS / "autoscaling/prometheus-adapter.yaml"}
    named_files: set[Path] = set()
    for file in K8S.rglob("kustomization.yaml"):
        (said,) = documents(file)
        names = [*said.get("resources", []), *(p["path"] for p in said.get("patches", []))]
        names += [name for made in said.get("configMapGenerator", []) for name in made["files"]]
        named_files |= {(file.parent / name).resolve() for name in names} | {file}
    assert set(K8S.rglob("*.yaml")) - named_files == values
    assert {component.name for component in COMPONENTS.iterdir()} == {
        Path(name).name
        for name in documents(K8S / "overlays/gpu-fleet/kustomization.yaml")[0]["components"]
    }


@each_folder
def test_everything_is_in_the_namespace(folder: Path) -> None:
    manifests = build(folder)
    (namespace,) = [m["metadata"]["name"] for m in manifests if m["kind"] == "Namespace"]
    places = {m["metadata"].get("namespace") for m in manifests if m["kind"] != "Namespace"}
    assert places == {namespace}
    assert all(s["namespace"] == namespace for m in manifests for s in m.get("subjects", []))


@each_folder
def test_the_image_and_the_pod_agree(folder: Path) -> None:
    """Port, user and cache are the Dockerfile's; the pod's root file system takes no writes."""
    manifests = build(folder)
    container, spec = server(manifests), pod(manifests)
    assert [str(port["containerPort"]) for port in container["ports"]] == named("EXPOSE")
    assert [str(spec["securityContext"]["runAsUser"])] == named("USER")
    assert container["image"].split(":")[0] in ("glidecape", "glidecape-cuda")
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    assert set(named("VOLUME")) | {"/tmp"} <= set(mounts)
    assert set(mounts.values()) == {volume["name"] for volume in spec["volumes"]}
    assert "command" not in container  # its arguments are those of the image's entry point
    assert settings(manifests).port == int(named("EXPOSE")[0])


@each_folder
def test_pods_keep_to_the_restricted_profile(folder: Path) -> None:
    """The fields that it asks for, and a root file system of the server's that can't be written."""
    manifests = build(folder)
    (space,) = [m for m in manifests if m["kind"] == "Namespace"]
    assert space["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    for deployment in (m for m in manifests if m["kind"] == "Deployment"):
        spec = deployment["spec"]["template"]["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] > 0
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in spec["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        kinds = {kind for volume in spec["volumes"] for kind in volume if kind != "name"}
        assert kinds <= {"emptyDir", "configMap", "persistentVolumeClaim"}
    assert server(manifests)["securityContext"]["readOnlyRootFilesystem"] is True
    assert pod(manifests)["automountServiceAccountToken"] is False


@each_folder
def test_probes_ask_routes_of_the_server(folder: Path) -> None:
    container = server(build(folder))
    routes = [getattr(route, "path", None) for route in health.router.routes]
    ports = {port["name"] for port in container["ports"]}
    probes = {kind: container[f"{kind}Probe"] for kind in ("startup", "readiness", "liveness")}
    for probe in probes.values():
        assert probe["httpGet"]["path"] in routes
        assert probe["httpGet"]["port"] in ports
    # While the server drains, only /ready says no: it is not to be restarted then.
    paths = {kind: probe["httpGet"]["path"] for kind, probe in probes.items()}
    assert paths == {"startup": "/ready", "readiness": "/ready", "liveness": "/health"}


@each_folder
def test_the_pod_waits_for_the_servers_end(folder: Path) -> None:
    """Proxies turn away first, then open requests are finished; the end itself is bounded too."""
    manifests = build(folder)
    sleep = server(manifests)["lifecycle"]["preStop"]["sleep"]["seconds"]
    grace = pod(manifests)["terminationGracePeriodSeconds"]
    assert grace >= sleep + settings(manifests).drain_seconds + PARTS_SECONDS
    assert sleep > server(manifests)["readinessProbe"]["periodSeconds"]


@each_folder
def test_only_settings_are_given(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As variables beside those that Kubernetes sets for each Service here, should someone switch
    `enableServiceLinks` on."""
    manifests = build(folder)
    for service in (m["metadata"]["name"] for m in manifests if m["kind"] == "Service"):
        for name, text in kubernetes_variables(service).items():
            monkeypatch.setenv(name, text)
    entries = server(manifests)["env"]
    for entry in entries:
        monkeypatch.setenv(entry["name"], entry.get("value", "from-a-secret"))
    loaded = load_settings(ServerSettings)
    assert loaded.port == 8000
    assert [key.get_secret_value() for key in loaded.api_key] == ["from-a-secret"]
    assert loaded.max_stored_responses == 0
    secrets = [e["valueFrom"]["secretKeyRef"] for e in entries if "valueFrom" in e]
    assert all(secret["optional"] for secret in secrets)  # none has to be made


@each_folder
def test_labels_and_ports_lead_to_the_pods(folder: Path) -> None:
    manifests = build(folder)
    for deployment in (m for m in manifests if m["kind"] == "Deployment"):
        name, spec = deployment["metadata"]["name"], deployment["spec"]
        labels = spec["template"]["metadata"]["labels"]
        assert spec["selector"]["matchLabels"].items() <= labels.items()
        service = find(manifests, "Service", name)
        assert service["spec"]["selector"].items() <= labels.items()
        (container,) = spec["template"]["spec"]["containers"]
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        for port in service["spec"]["ports"]:
            assert ports[port["targetPort"]] == port["port"]
    labels = find(manifests, "Deployment", "glidecape")["spec"]["template"]["metadata"]["labels"]
    selectors = [find(manifests, "PodDisruptionBudget", "glidecape")["spec"]["selector"]]
    selectors += [c["labelSelector"] for c in pod(manifests)["topologySpreadConstraints"]]
    assert all(selector["matchLabels"].items() <= labels.items() for selector in selectors)


def shown() -> list[str]:
    """Commands of kubectl that docs/scaling.md shows."""
    return re.findall(r"^    (kubectl .*)$", (ROOT / "docs/scaling.md").read_text(), re.MULTILINE)


def test_commands_of_the_docs_name_what_there_is() -> None:
    """Nothing runs them here: the folders can be built, the objects are those of the manifests."""
    assert len(shown()) >= 4
    for command in shown():
        words = shlex.split(command, comments=True)
        if words[1] == "apply":
            assert words[2] == "-k"
            assert build(ROOT / words[3])
        elif words[1] == "scale":
            kind, name = words[2].split("/")
            assert find(FLEET, kind.title(), name)
        else:
            assert words[1:4] == ["create", "secret", "generic"]
            keys = {word.split("=")[1] for word in words if word.startswith("--from-literal=")}
            entries = server(FLEET)["env"]
            secrets = [e["valueFrom"]["secretKeyRef"] for e in entries if "valueFrom" in e]
            assert {(s["name"], s["key"]) for s in secrets} == {(words[4], key) for key in keys}
        if "--namespace" in words:
            space = words[words.index("--namespace") + 1]
            assert find(FLEET, "Namespace", space)


def test_the_overlay_of_the_docs_can_be_built(tmp_path: Path) -> None:
    """Its resources and components are there, and the patch adds a variable that is a setting."""
    (text,) = re.findall(
        r"^```yaml\n(.*?)^```$", (ROOT / "docs/scaling.md").read_text(), re.MULTILINE | re.DOTALL
    )
    said = yaml.safe_load(text)
    for name in (*said["resources"], *said["components"]):
        assert build((K8S / "overlays/yours" / name).resolve())
    gpu = build(K8S / "overlays/gpu")
    assert server(gpu)["image"].split(":")[0] == said["images"][0]["name"]
    (operation,) = yaml.safe_load(said["patches"][0]["patch"])
    assert operation["path"] == "/spec/template/spec/containers/0/env/-"
    added = operation["value"]
    server(gpu)["env"].append(added)
    assert settings(gpu).max_model_len == int(added["value"])


def test_requests_are_limits() -> None:
    """A node then has the cores for which the server makes threads."""
    for manifests in map(build, FOLDERS):
        resources = server(manifests)["resources"]
        assert resources["requests"] == resources["limits"]
    assert server(FLEET)["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert settings(FLEET).device == "cuda"
    shm = find_volume(FLEET, "shm")["emptyDir"]
    assert shm["medium"] == "Memory"


def find_volume(manifests: list[Manifest], name: str) -> dict[str, Any]:
    (volume,) = [v for v in pod(manifests)["volumes"] if v["name"] == name]
    return volume


def test_the_shared_cache_takes_the_caches_place() -> None:
    claim = find(FLEET, "PersistentVolumeClaim", "glidecape-cache")
    assert find_volume(FLEET, "cache") == {
        "name": "cache",
        "persistentVolumeClaim": {"claimName": claim["metadata"]["name"]},
    }
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]


def exported() -> set[str]:
    """Names of the metrics that a server exports, as Prometheus has them."""
    metrics = Metrics("tiny")
    metrics.describe_cache(16, 100)
    text = metrics.render().decode()
    return set(re.findall(r"^(glidecape:\w+)\{", text, re.MULTILINE))


def test_prometheus_scrapes_the_service() -> None:
    monitor = find(FLEET, "ServiceMonitor", "glidecape")["spec"]
    service = find(FLEET, "Service", "glidecape")
    assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    (endpoint,) = monitor["endpoints"]
    assert endpoint["port"] in [port["name"] for port in service["spec"]["ports"]]
    assert endpoint["path"] in [getattr(route, "path", None) for route in health.router.routes]
    # The alerts' job is the Service's name.
    alerts = (ROOT / "docker/rules/alerts.yml").read_text()
    assert f'job="{service["metadata"]["name"]}"' in alerts


def test_the_autoscalers_metrics_are_made_of_the_servers(tmp_path: Path) -> None:
    """The adapter's rule, followed by hand: which metrics it finds, what it calls them, and that
    what it then asks Prometheus is PromQL."""
    (values,) = documents(COMPONENTS / "autoscaling/prometheus-adapter.yaml")
    (rule,) = values["rules"]["custom"]
    pattern = re.search(r'__name__=~"([^"]*)"', rule["seriesQuery"])
    assert pattern is not None
    found = {name for name in exported() if re.fullmatch(pattern[1], name)}
    renamed = rule["name"]["as"].replace("${1}", r"\1")
    offered = {re.sub(rule["name"]["matches"], renamed, name) for name in found}
    scaler = find(FLEET, "HorizontalPodAutoscaler", "glidecape")["spec"]
    asked = {metric["pods"]["metric"]["name"] for metric in scaler["metrics"]}
    assert asked == offered
    assert not any(":" in name for name in offered)
    queries = [
        rule["metricsQuery"]
        .replace("<<.Series>>", name)
        .replace("<<.LabelMatchers>>", 'namespace="glidecape",pod=~"a|b"')
        .replace("<<.GroupBy>>", "pod")
        for name in sorted(found)
    ]
    rules = [{"record": f"test:{i}", "expr": query} for i, query in enumerate(queries)]
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "test", "rules": rules}]}))
    promtool("check", "rules", file)


def test_the_autoscaler_scales_the_server() -> None:
    scaler = find(FLEET, "HorizontalPodAutoscaler", "glidecape")["spec"]
    deployment = find(FLEET, scaler["scaleTargetRef"]["kind"], scaler["scaleTargetRef"]["name"])
    assert "replicas" not in deployment["spec"]  # each `apply` would set them back
    targets = {
        metric["pods"]["metric"]["name"]: int(metric["pods"]["target"]["averageValue"])
        for metric in scaler["metrics"]
    }
    running = targets["glidecape_num_requests_running"]
    assert running < settings(FLEET).max_num_seqs  # never reached otherwise


def picker_config() -> dict[str, Any]:
    data = find(FLEET, "ConfigMap", "glidecape-picker")["data"]
    (text,) = data.values()
    return yaml.safe_load(text)


def test_the_gateway_reads_the_servers_metrics() -> None:
    plugins = {
        plugin["type"]: plugin.get("parameters", {}) for plugin in picker_config()["plugins"]
    }
    extractor = plugins["core-metrics-extractor"]
    (engine,) = extractor["engineConfigs"]
    labels = find(FLEET, "Deployment", "glidecape")["spec"]["template"]["metadata"]["labels"]
    assert labels[extractor["engineLabelKey"]] == engine["name"] == extractor["defaultEngine"]
    specs = {name: text for name, text in engine.items() if name.endswith("Spec") and text}
    assert set(specs) == {
        "queuedRequestsSpec",
        "runningRequestsSpec",
        "kvUsageSpec",
        "cacheInfoSpec",
    }
    assert set(specs.values()) <= exported()
    metrics = Metrics("tiny")
    metrics.describe_cache(16, 100)
    (line,) = re.findall(rf"^{specs['cacheInfoSpec']}{{.*", metrics.render().decode(), re.MULTILINE)
    assert 'block_size="16"' in line and 'num_gpu_blocks="100"' in line
    source = plugins["metrics-data-source"]
    assert source["path"] in [getattr(route, "path", None) for route in health.router.routes]
    used = {
        p["pluginRef"]
        for profile in picker_config()["schedulingProfiles"]
        for p in profile["plugins"]
    }
    assert used <= set(plugins)


def test_the_gateway_finds_picker_and_replicas() -> None:
    pool = find(FLEET, "InferencePool", "glidecape")
    labels = find(FLEET, "Deployment", "glidecape")["spec"]["template"]["metadata"]["labels"]
    assert pool["spec"]["selector"]["matchLabels"].items() <= labels.items()
    (target,) = pool["spec"]["targetPorts"]
    assert [str(target["number"])] == named("EXPOSE")
    reference = pool["spec"]["endpointPickerRef"]
    service = find(FLEET, "Service", reference["name"])
    assert reference["port"]["number"] in [port["port"] for port in service["spec"]["ports"]]
    route = find(FLEET, "HTTPRoute", "glidecape")["spec"]
    (backend,) = route["rules"][0]["backendRefs"]
    assert backend["group"] == pool["apiVersion"].split("/")[0]
    assert (backend["kind"], backend["name"]) == (pool["kind"], pool["metadata"]["name"])


def test_the_picker_is_started_for_this_pool() -> None:
    (picker,) = pod(FLEET, "glidecape-picker")["containers"]
    options = dict(argument.removeprefix("--").split("=") for argument in picker["args"])
    assert options["pool-name"] == find(FLEET, "InferencePool", "glidecape")["metadata"]["name"]
    assert options["pool-namespace"] == "$(NAMESPACE)"
    assert "NAMESPACE" in [entry["name"] for entry in picker["env"]]
    (mount,) = picker["volumeMounts"]
    config = find(FLEET, "ConfigMap", "glidecape-picker")
    assert Path(options["config-file"]).parent == Path(mount["mountPath"])
    assert Path(options["config-file"]).name in config["data"]
    ports = [port["containerPort"] for port in picker["ports"]]
    assert int(options["grpc-port"]) in ports
    assert picker["livenessProbe"]["grpc"]["port"] == int(options["grpc-health-port"])
    grace = pod(FLEET, "glidecape-picker")["terminationGracePeriodSeconds"]
    assert grace >= pod(FLEET)["terminationGracePeriodSeconds"]


def test_the_picker_may_read_what_it_reads() -> None:
    account = pod(FLEET, "glidecape-picker")["serviceAccountName"]
    assert find(FLEET, "ServiceAccount", account)
    binding = find(FLEET, "RoleBinding", account)
    assert [s["name"] for s in binding["subjects"]] == [account]
    role = find(FLEET, binding["roleRef"]["kind"], binding["roleRef"]["name"])
    granted = {resource for rule in role["rules"] for resource in rule["resources"]}
    assert {"pods", "inferencepools"} <= granted
    assert {verb for rule in role["rules"] for verb in rule["verbs"]} == {"get", "list", "watch"}
