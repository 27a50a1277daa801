"""The values of the Helm chart: groups of workers, networks, refused values, and its pages."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.chart import CHART, FULL, GROWING, VERSIONS, Objects, container_of, objects, pods, render, settings_of
from tests.support.media import ROOT
from vision_infer import __version__
from vision_infer.config.preview import PreviewSettings

helm = pytest.importorskip("helm_python")

__all__ = ["objects"]


def test_a_worker_drains_before_it_ends(objects: Objects) -> None:
    for name in ("cpu", "gpu"):
        pod = pods(objects)[name]
        container = container_of(pod)
        command = container["lifecycle"]["preStop"]["exec"]["command"]
        assert command == ["/bin/sh", "-c", 'vision-infer cluster drain "$POD_NAME"']
        words = shlex.split(command[-1])[1:]
        done = subprocess.run(
            [sys.executable, "-m", "vision_infer", *words[:-1], "--help"], capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        assert pod["spec"]["terminationGracePeriodSeconds"] > 30  # the command waits so long
        assert {"name": "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S", "value": "0"} in container["env"]


def test_only_the_gateway_and_pods_of_ray_reach_rays_ports() -> None:
    objects = render({})
    ray = {"ray.io/cluster": "vision"}  # KubeRay's labels of its pods
    inside = objects["NetworkPolicy", "vision-ray"]["spec"]
    assert inside["podSelector"]["matchLabels"] == ray
    assert inside["policyTypes"] == ["Ingress"]
    assert inside["ingress"] == [{"from": [{"podSelector": {"matchLabels": ray}}]}]
    head = objects["NetworkPolicy", "vision-gateway-to-head"]["spec"]
    assert head["podSelector"]["matchLabels"] == {**ray, "ray.io/node-type": "head"}
    (rule,) = head["ingress"]
    assert rule["ports"] == [{"port": 10001, "protocol": "TCP"}]
    assert rule["from"] == [{"podSelector": {"matchLabels": pods(objects)["gateway"]["metadata"]["labels"]}}]
    video = objects["NetworkPolicy", "vision-video"]["spec"]
    assert video["podSelector"]["matchLabels"] == {**ray, "ray.io/node-type": "worker"}
    port = PreviewSettings().port
    assert video["ingress"] == [{"ports": [{"port": port, "protocol": "UDP"}, {"port": port, "protocol": "TCP"}]}]
    assert "NetworkPolicy" not in {kind for kind, _ in render({"networkPolicy": {"enabled": False}})}


def test_workers_on_the_network_of_their_node_need_its_addresses() -> None:
    values = {"workers": {"cpu": {"hostNetwork": True}}}
    with pytest.raises(helm.HelmError, match=r"set networkPolicy\.nodes"):
        render(values)
    objects = render({**values, "networkPolicy": {"nodes": ["10.0.0.0/24"]}})
    spec = pods(objects)["cpu"]["spec"]
    assert (spec["hostNetwork"], spec["dnsPolicy"]) == (True, "ClusterFirstWithHostNet")
    allowed = objects["NetworkPolicy", "vision-ray"]["spec"]["ingress"][0]["from"]
    assert {"ipBlock": {"cidr": "10.0.0.0/24"}} in allowed


def test_one_worker_may_be_evicted_at_a_time() -> None:
    for replicas, at_least in ((3, 2), (2, 1)):
        budget = render({"workers": {"cpu": {"replicas": replicas}}})["PodDisruptionBudget", "vision-workers"]["spec"]
        assert budget["minAvailable"] == at_least
        assert budget["selector"]["matchLabels"] == {"ray.io/cluster": "vision", "ray.io/node-type": "worker"}
    assert ("PodDisruptionBudget", "vision-workers") not in render({"workers": {"cpu": {"replicas": 1}}})


def test_a_group_that_may_grow_uses_the_autoscaler_of_ray(tmp_path: Path) -> None:
    objects = render(GROWING)
    cluster = objects["RayCluster", "vision"]["spec"]
    cpu, gpu = cluster["workerGroupSpecs"]
    assert (cpu["minReplicas"], cpu["maxReplicas"]) == (2, 5)
    assert (gpu["minReplicas"], gpu["maxReplicas"]) == (0, 0)
    assert cluster["enableInTreeAutoscaling"] is True
    head = container_of(pods(objects)["head"])
    assert cluster["autoscalerOptions"]["securityContext"] == head["securityContext"]
    (mount,) = cluster["autoscalerOptions"]["volumeMounts"]
    assert mount in head["volumeMounts"]
    assert settings_of(objects, tmp_path).autoscale is True
    assert "autoscale" not in render({})["ConfigMap", "vision"]["data"]["cameras.yaml"]


def test_a_group_gets_its_image_labels_and_nodes() -> None:
    objects = render(FULL)
    groups = {group["groupName"]: group for group in objects["RayCluster", "vision"]["spec"]["workerGroupSpecs"]}
    assert (groups["cpu"]["replicas"], groups["cpu"]["labels"]) == (3, {"site": "berlin"})
    assert groups["cpu"]["template"]["spec"]["nodeSelector"] == {"pool": "cpu"}
    gpu = groups["gpu"]["template"]["spec"]
    assert groups["gpu"]["labels"] == {"gpu": "true"}
    assert gpu["runtimeClassName"] == "nvidia"
    assert container_of({"spec": gpu})["image"] == "vision-infer:cluster-gpu"
    assert container_of({"spec": gpu})["resources"]["limits"]["nvidia.com/gpu"] == 1
    for name in ("gateway", "cpu", "gpu"):
        assert {"name": "models", "mountPath": "/models", "readOnly": True} in container_of(pods(objects)[name])["volumeMounts"]


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"worker": {}}, "worker"),
        ({"workers": {"cpu": {"replicas": -1}}}, "replicas"),
        ({"workers": {"cpu": {"image": "tpu"}}}, "image"),
        ({"workers": {"other": {"image": "cpu", "replicas": 1, "resources": {"requests": {"cpu": "1"}}}}}, "limits"),
        ({"images": {"rayVersion": "2.52.0"}}, "rayVersion"),
        ({"gateway": {"service": {"port": 0}}}, "port"),
        ({"networkPolicy": {"nodes": ["10.0.0.1"]}}, "nodes"),
    ],
)
def test_wrong_values_are_refused(values: dict[str, Any], reason: str) -> None:
    with pytest.raises(helm.HelmError, match=reason):
        render(values)


@pytest.mark.parametrize(
    ("values", "name", "reason"),
    [
        ({}, "7cameras", "begins with a letter"),
        ({"secrets": {"service": "vision"}}, "vision", "choose another name in secrets"),
        ({"secrets": {"cameras": "vision"}}, "vision", "choose another name in secrets"),
    ],
)
def test_names_that_kuberay_refuses_or_uses_are_refused(values: dict[str, Any], name: str, reason: str) -> None:
    with pytest.raises(helm.HelmError, match=reason):
        render(values, name)


def test_the_pages_of_the_chart_name_what_exists() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    assert set(values) == set(schema["properties"]) - {"global"}
    for page in (CHART / "README.md", ROOT / "docs" / "how-to" / "kubernetes.md"):
        text = page.read_text(encoding="utf-8")
        for path in re.findall(r"`((?:images|workers|head|secrets|networkPolicy)\.(?!yaml)[\w.]+)`", text):
            found: Any = values
            for part in path.split("."):
                assert part in found, f"{page.name}: {path}"
                found = found[part]
    about = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    assert about["appVersion"] == __version__
    assert about["kubeVersion"] == f">={VERSIONS[0]}.0-0"


def test_the_values_of_the_page_are_valid(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "how-to" / "kubernetes.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    objects = render(yaml.safe_load(block), "vision")
    assert "0123456789abcdef-door@" in settings_of(objects, tmp_path).streams["door"].detect
    (name,) = re.findall(r"helm install (\S+) deploy/kubernetes", page)
    created = re.findall(r"kubectl create secret generic (\S+)", page)
    volumes = pods(objects)["gateway"]["spec"]["volumes"]
    assert created == [volume["secret"]["secretName"] for volume in volumes if "secret" in volume]
    assert name not in created
