"""The Helm chart: rendered by Helm's own code, and checked with the schemas of Kubernetes.

The schema of KubeRay's RayCluster is not in a package. Its pod templates are checked with that of Kubernetes, and the whole
object if the environment variable ``RAYCLUSTER_CRD`` is the path of KubeRay's ``ray.io_rayclusters.yaml``.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.deploy.chart import CASES, CHART, VERSIONS, Objects, container_of, objects, pods
from tests.support.media import ROOT

helm = pytest.importorskip("helm_python")
kubernetes_validate = pytest.importorskip("kubernetes_validate")

__all__ = ["objects"]


def test_helm_finds_nothing_wrong() -> None:
    for values in CASES.values():
        report = helm.lint(CHART, values, strict=True)
        assert report["errors"] == []
        assert [one["error"] for one in report["messages"]] == ["icon is recommended"]


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_accepts_the_objects(objects: Objects, version: str) -> None:
    for (kind, _), one in objects.items():
        if kind not in ("RayCluster", "ServiceMonitor"):
            kubernetes_validate.validate(one, version, strict=True)
    for pod in pods(objects).values():
        template = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "checked"}, "template": pod}
        kubernetes_validate.validate(template, version, strict=True)


def strict(schema: Any) -> Any:
    """Return the schema of a custom resource so that unknown fields are errors, as for ``kubectl --validate=strict``."""
    if isinstance(schema, list):
        return [strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    found = {name: strict(value) for name, value in schema.items()}
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    if isinstance(schema.get("properties"), dict) and not schema.get("x-kubernetes-preserve-unknown-fields"):
        found.setdefault("additionalProperties", False)
    return found


def test_kuberay_accepts_the_cluster(objects: Objects) -> None:
    file = os.environ.get("RAYCLUSTER_CRD")
    if file is None:
        pytest.skip("RAYCLUSTER_CRD is not set")
    definition = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    (version,) = (one for one in definition["spec"]["versions"] if one["name"] == "v1")
    schema = strict(version["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}
    jsonschema.Draft202012Validator(schema).validate(objects["RayCluster", "vision"])


def test_the_cluster_has_what_kuberay_requires_beyond_its_schema(objects: Objects) -> None:
    """The checks of KubeRay's operator, and what it sets itself."""
    cluster = objects["RayCluster", "vision"]["spec"]
    assert cluster["authOptions"] == {"mode": "token"}  # requires rayVersion
    assert cluster["upgradeStrategy"] == {"type": "Recreate"}  # without it, running pods keep the old image
    assert cluster["rayVersion"] == pinned_ray()
    for group in cluster["workerGroupSpecs"]:
        assert group.get("replicas", group["minReplicas"]) == group["minReplicas"] <= group["maxReplicas"]
        # Both limits are required without the autoscaler. With it, the number is its own.
        assert ("replicas" in group) == (group["minReplicas"] == group["maxReplicas"])
        assert group["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"]  # becomes --num-cpus
        assert "labels" not in group["rayStartParams"]
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        container = container_of(group["template"])
        # It sets the command, the token, and the probes. `ray start` runs in a shell, which replaces the name of the pod.
        assert not {"command", "args", "livenessProbe", "readinessProbe"} & set(container)
        assert group["rayStartParams"]["node-name"] == "$POD_NAME"
        assert {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}} in container["env"]


def pinned_ray() -> str:
    (line,) = re.findall(r"^ray==(.*)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    return str(line)


def test_all_pods_are_locked_down(objects: Objects) -> None:
    image = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert "USER 10001:10001" in image
    for name, pod in pods(objects).items():
        spec, container = pod["spec"], container_of(pod)
        is_autoscaler = name == "head" and "enableInTreeAutoscaling" in objects["RayCluster", "vision"]["spec"]
        assert spec["automountServiceAccountToken"] is is_autoscaler, name
        assert spec["enableServiceLinks"] is False, name  # variables of Services named vision-infer-… would be unknown settings
        assert spec["securityContext"] == {
            "runAsNonRoot": True,
            "runAsUser": 10001,
            "runAsGroup": 10001,
            "fsGroup": 10001,
            "seccompProfile": {"type": "RuntimeDefault"},
        }
        assert container["securityContext"] == {
            "readOnlyRootFilesystem": True,
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["limits"]["memory"]
        assert container["resources"]["requests"]["cpu"]
        # Everything that is written to is a volume, and every mount has its volume.
        mounted = {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")}
        assert mounted == {"/var/lib/vision-infer", "/tmp"}, name
        assert [mount["name"] for mount in container["volumeMounts"]] == [volume["name"] for volume in spec["volumes"]]


def test_no_object_holds_a_secret(objects: Objects) -> None:
    assert "Secret" not in {kind for kind, _ in objects}
    for pod in pods(objects).values():
        for variable in container_of(pod)["env"]:
            assert "value" not in variable or not re.search("TOKEN|PASSWORD|SECRET", variable["name"])
