"""What `kubectl kustomize` makes of a folder, as far as docker/k8s uses it, without that program.

Resources, components, strategic merge patches, images, namespaces and config maps of files. Names
get no hash. Anything else in a kustomization is refused, so that nothing is left out unnoticed.
"""

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml

Manifest = dict[str, Any]

_KNOWN = {
    "apiVersion", "kind", "namespace", "resources", "components", "patches", "images",
    "configMapGenerator",
}  # fmt: skip
_MERGE_KEYS = {"containers": "name", "env": "name", "volumes": "name", "volumeMounts": "mountPath"}
"""Lists of a pod whose items are merged by a key; others are replaced."""
_OF_THE_CLUSTER = {"Namespace"}


def build(folder: Path) -> list[Manifest]:
    """The manifests of a kustomization.

    Raises:
        ValueError: it asks for something that is not done here.
    """
    manifests: list[Manifest] = []
    _add(folder, manifests)
    return manifests


def documents(path: Path) -> list[Manifest]:
    """The documents of a YAML file."""
    return list(yaml.safe_load_all(path.read_text()))


def _add(folder: Path, manifests: list[Manifest]) -> None:
    """Applies a folder's kustomization: what it adds is changed by it, and by a component also
    what was there before."""
    (said,) = documents(folder / "kustomization.yaml")
    if unknown := set(said) - _KNOWN:
        raise ValueError(f"{folder.name}: {', '.join(sorted(unknown))} is not done here")
    own = manifests if said["kind"] == "Component" else []
    for name in said.get("resources", []):
        path = (folder / name).resolve()
        if path.is_dir():
            _add(path, own)
        else:
            own.extend(documents(path))
    for generator in said.get("configMapGenerator", []):
        data = {name: (folder / name).read_text() for name in generator["files"]}
        metadata = {"name": generator["name"]}
        own.append({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data})
    for name in said.get("components", []):
        _add((folder / name).resolve(), own)
    for patch in said.get("patches", []):
        for change in documents(folder / patch["path"]):
            target = find(own, change["kind"], change["metadata"]["name"])
            target.update(_merged(target, change))
    for image in said.get("images", []):
        _rename_images(own, image)
    if namespace := said.get("namespace"):
        for manifest in own:
            if manifest["kind"] not in _OF_THE_CLUSTER:
                manifest["metadata"]["namespace"] = namespace
            for subject in manifest.get("subjects", []):
                subject["namespace"] = namespace
    if own is not manifests:
        manifests.extend(own)


def find(manifests: list[Manifest], kind: str, name: str) -> Manifest:
    """The one manifest of a kind and a name."""
    (found,) = (m for m in manifests if (m["kind"], m["metadata"]["name"]) == (kind, name))
    return found


def _merged(old: Manifest, change: Mapping[str, Any]) -> Manifest:
    result = deepcopy(old)
    for key, value in change.items():
        if value is None:
            result.pop(key, None)
        elif key in _MERGE_KEYS and key in result:
            result[key] = _merged_items(result[key], value, _MERGE_KEYS[key])
        elif isinstance(value, dict):
            result[key] = _merged(result.get(key, {}), value)
        else:
            result[key] = deepcopy(value)
    return result


def _merged_items(old: list[Manifest], changes: list[Manifest], key: str) -> list[Manifest]:
    by_key = {item[key]: item for item in old}
    for change in changes:
        by_key[change[key]] = _merged(by_key.get(change[key], {}), change)
    return list(by_key.values())


def _rename_images(manifests: list[Manifest], image: Manifest) -> None:
    for manifest in manifests:
        if manifest["kind"] != "Deployment":
            continue
        for container in manifest["spec"]["template"]["spec"]["containers"]:
            name, _, tag = container["image"].rpartition(":")
            if name == image["name"]:
                new = image.get("newName", name), image.get("newTag", tag)
                container["image"] = ":".join(new)
