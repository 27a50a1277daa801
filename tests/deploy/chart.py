"""The Helm chart, rendered by Helm's own code, for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.media import ROOT
from vision_infer.config.serve_file import load_settings

helm = pytest.importorskip("helm_python")

CHART = ROOT / "deploy" / "kubernetes"


VERSIONS = ("1.26", "1.37")
"""The oldest version of Kubernetes in Chart.yaml, and the newest one with a schema."""


CAMERA = "rtsp://viewer:${file:/run/secrets/cameras/door}@192.0.2.10/sub"


FULL = {
    "settings": {"streams": {"door": {"detect": CAMERA}}, "preview": {"max_viewers": 5}},
    "secrets": {"cameras": "camera-passwords"},
    "images": {"pullSecrets": ["registry"]},
    "gateway": {"storageClass": "fast", "service": {"type": "LoadBalancer", "annotations": {"a": "b"}}},
    "head": {"nodeSelector": {"pool": "stable"}, "tolerations": [{"key": "stable", "operator": "Exists"}]},
    "workers": {
        "cpu": {"replicas": 3, "labels": {"site": "berlin"}, "nodeSelector": {"pool": "cpu"}},
        "gpu": {"replicas": 2, "hostNetwork": True, "runtimeClass": "nvidia"},
    },
    "volumes": [{"name": "models", "persistentVolumeClaim": {"claimName": "models", "readOnly": True}}],
    "volumeMounts": [{"name": "models", "mountPath": "/models", "readOnly": True}],
    "networkPolicy": {"nodes": ["10.0.0.0/24"]},
    "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
}


GROWING = {"workers": {"cpu": {"maxReplicas": 5}}}


CASES: dict[str, dict[str, Any]] = {"defaults": {}, "full": FULL, "growing": GROWING}


Objects = dict[tuple[str, str], dict[str, Any]]


def render(values: dict[str, Any], name: str = "vision") -> Objects:
    """Return the objects of the chart by kind and name."""
    with helm.Chart.load(CHART) as chart:
        chart.validate_schema(values)
        files = chart.render(values, name=name, namespace="cameras")
    documents = [one for text in files.values() for one in yaml.safe_load_all(text) if one is not None]
    objects = {(one["kind"], one["metadata"]["name"]): one for one in documents}
    assert len(objects) == len(documents)
    return objects


@pytest.fixture(params=CASES)
def objects(request: pytest.FixtureRequest) -> Objects:
    return render(CASES[request.param])


def pods(objects: Objects) -> dict[str, dict[str, Any]]:
    """Return the pod templates: the gateway, the head, and each group of workers."""
    cluster = objects["RayCluster", "vision"]["spec"]
    groups = {group["groupName"]: group["template"] for group in cluster["workerGroupSpecs"]}
    return {
        "gateway": objects["Deployment", "vision"]["spec"]["template"],
        "head": cluster["headGroupSpec"]["template"],
        **groups,
    }


def container_of(pod: dict[str, Any]) -> dict[str, Any]:
    (container,) = pod["spec"]["containers"]
    return container  # type: ignore[no-any-return]


def settings_of(objects: Objects, folder: Path) -> Any:
    """Return the settings that the gateway loads, with its secrets in a folder."""
    for name in ("vision-infer", "cameras"):
        (folder / name).mkdir()
    for name in ("vision-infer/admin_token", "vision-infer/view_token", "cameras/door"):
        (folder / name).write_text(f"0123456789abcdef-{name.partition('/')[2]}\n", encoding="utf-8")
    text = objects["ConfigMap", "vision"]["data"]["cameras.yaml"]
    file = folder / "cameras.yaml"
    file.write_text(text.replace("/run/secrets", str(folder)), encoding="utf-8")
    return load_settings(file, [], {}, {})
