"""The fields of other projects' resources that docker/k8s uses, as their published CRDs have them.

kubernetes-validate knows Kubernetes' own kinds alone. What is no field here may still be one of the
CRD: it is to be looked up there, and added.
"""

from typing import Any

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string", "minLength": 1}
_PORT: Schema = {"type": "integer", "minimum": 1, "maximum": 65535}
_LABELS: Schema = {"type": "object", "additionalProperties": {"type": "string", "maxLength": 63}}


def _fields(required: str, **fields: Schema) -> Schema:
    return {
        "type": "object",
        "properties": fields,
        "required": required.split(),
        "additionalProperties": False,
    }


def _list(item: Schema) -> Schema:
    return {"type": "array", "items": item, "minItems": 1}


def _resource(version: str, spec: Schema) -> Schema:
    metadata = _fields("name", name=_TEXT, namespace=_TEXT, labels=_LABELS)
    return _fields(
        "apiVersion kind metadata spec",
        apiVersion={"const": version},
        kind=_TEXT,
        metadata=metadata,
        spec=spec,
    )


_SELECTOR = _fields("matchLabels", matchLabels=_LABELS)
_RAY_PARAMS: Schema = {"type": "object", "additionalProperties": {"type": "string"}}
_POD: Schema = {"type": "object", "required": ["spec"]}
_COUNT: Schema = {"type": "integer", "minimum": 0}

SCHEMAS = {
    "ServiceMonitor": _resource(
        "monitoring.coreos.com/v1",
        _fields(
            "selector endpoints",
            selector=_SELECTOR,
            endpoints=_list(
                _fields(
                    "port path interval",
                    port=_TEXT,
                    path={"type": "string", "pattern": "^/"},
                    interval={"type": "string", "pattern": r"^\d+s$"},
                )
            ),
        ),
    ),
    "RayService": _resource(
        "ray.io/v1",
        _fields(
            "serveConfigV2 rayClusterConfig",
            serveConfigV2=_TEXT,
            rayClusterConfig=_fields(
                "rayVersion headGroupSpec workerGroupSpecs",
                rayVersion=_TEXT,
                headGroupSpec=_fields(
                    "rayStartParams template", rayStartParams=_RAY_PARAMS, template=_POD
                ),
                workerGroupSpecs=_list(
                    _fields(
                        "groupName replicas minReplicas maxReplicas rayStartParams template",
                        groupName=_TEXT,
                        replicas=_COUNT,
                        minReplicas=_COUNT,
                        maxReplicas=_COUNT,
                        rayStartParams=_RAY_PARAMS,
                        template=_POD,
                    )
                ),
            ),
        ),
    ),
    "InferencePool": _resource(
        "inference.networking.k8s.io/v1",
        _fields(
            "selector targetPorts endpointPickerRef",
            selector=_SELECTOR,
            targetPorts={**_list(_fields("number", number=_PORT)), "maxItems": 8},
            endpointPickerRef=_fields(
                "name port",
                name=_TEXT,
                port=_fields("number", number=_PORT),
                failureMode={"enum": ["FailOpen", "FailClose"]},
            ),
        ),
    ),
    "HTTPRoute": _resource(
        "gateway.networking.k8s.io/v1",
        _fields(
            "parentRefs rules",
            parentRefs=_list(_fields("name", name=_TEXT)),
            rules=_list(
                _fields(
                    "matches backendRefs",
                    matches=_list(
                        _fields(
                            "path",
                            path=_fields(
                                "type value",
                                type={"enum": ["Exact", "PathPrefix", "RegularExpression"]},
                                value={"type": "string", "pattern": "^/"},
                            ),
                        )
                    ),
                    backendRefs=_list(
                        _fields("group kind name", group=_TEXT, kind=_TEXT, name=_TEXT)
                    ),
                    timeouts=_fields(
                        "request",
                        request={"type": "string", "pattern": "^([0-9]{1,5}(h|m|s|ms)){1,4}$"},
                    ),
                )
            ),
        ),
    ),
}
"""By kind."""
