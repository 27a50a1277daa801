"""The Helm chart: rendered by Helm's own code, and checked with the schemas of Kubernetes.

The schema of KubeRay's RayCluster is not in a package. Its pod templates are checked with that of Kubernetes, and the whole
object if the environment variable ``RAYCLUSTER_CRD`` is the path of KubeRay's ``ray.io_rayclusters.yaml``.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from pydantic import SecretStr

from tests.support.media import ROOT
from vision_infer import __version__
from vision_infer.config.preview import PreviewSettings
from vision_infer.config.serve_file import load_settings

helm = pytest.importorskip("helm_python")
kubernetes_validate = pytest.importorskip("kubernetes_validate")

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


def test_the_gateway_loads_its_settings_and_secrets(tmp_path: Path) -> None:
    objects = render(FULL)
    settings = settings_of(objects, tmp_path)
    assert settings.service.token == SecretStr("0123456789abcdef-admin_token")
    assert settings.service.view_token == SecretStr("0123456789abcdef-view_token")
    assert settings.streams["door"].detect == "rtsp://viewer:0123456789abcdef-door@192.0.2.10/sub"
    assert settings.preview.max_viewers == 5
    assert "vision.cameras.svc" in settings.service.allow_hosts
    container = container_of(pods(objects)["gateway"])
    volumes = {volume["name"]: volume for volume in pods(objects)["gateway"]["spec"]["volumes"]}
    assert volumes["cameras"]["secret"]["secretName"] == "camera-passwords"
    mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in container["volumeMounts"]}
    assert mounts["/etc/vision-infer"]["configMap"]["name"] == "vision"
    assert mounts["/run/secrets/vision-infer"]["secret"]["secretName"] == "vision-infer-tokens"
    assert "/run/secrets/cameras" not in str(pods(render({}))["gateway"])


def test_settings_of_the_user_replace_those_of_the_chart(tmp_path: Path) -> None:
    settings = settings_of(render({"settings": {"service": {"log_format": "human"}, "streams": {}}}), tmp_path)
    assert settings.service.log_format == "human"
    assert settings.service.token is not None


def test_the_gateway_restarts_for_settings_that_are_read_at_the_start() -> None:
    def checksum(settings: dict[str, Any]) -> str:
        annotations = pods(render({"settings": settings}))["gateway"]["metadata"]["annotations"]
        return str(annotations["checksum/settings"])

    assert checksum({}) == checksum({"streams": {"door": {"detect": CAMERA}}})
    assert checksum({}) != checksum({"preview": {"max_viewers": 5}})


def test_the_gateway_connects_to_the_head_with_the_token_of_kuberay(objects: Objects) -> None:
    container = container_of(pods(objects)["gateway"])
    words = container["args"]
    assert words[words.index("--cluster") + 1] == "ray://vision-head-svc:10001"  # KubeRay's name of the head's Service
    ports = {port["name"]: port["containerPort"] for port in container_of(pods(objects)["head"])["ports"]}
    assert ports["client"] == 10001
    (token,) = (one for one in container["env"] if one["name"] == "RAY_AUTH_TOKEN")
    assert token["valueFrom"]["secretKeyRef"] == {"name": "vision", "key": "auth_token"}  # KubeRay's names, too
    assert {"name": "RAY_AUTH_MODE", "value": "token"} in container["env"]
    help_text = subprocess.run(
        [sys.executable, "-m", "vision_infer", "serve", "--help"], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    assert {word for word in words if word.startswith("--")} <= set(re.findall(r"--[a-z-]+", help_text))


class _Ready(BaseHTTPRequestHandler):
    status = 200
    asked: list[tuple[str, str | None]] = []  # noqa: RUF012

    def do_GET(self) -> None:
        self.asked.append((self.path, self.headers.get("Authorization")))
        self.send_response(self.status)
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def ready_server() -> Iterator[HTTPServer]:
    _Ready.asked, _Ready.status = [], 200
    server = HTTPServer(("127.0.0.1", 0), _Ready)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(("status", "result"), [(200, 0), (503, 1), (401, 1)])
@pytest.mark.parametrize("file", ["chart", "single"])
def test_the_readiness_probe_sends_a_token(ready_server: HTTPServer, tmp_path: Path, file: str, status: int, result: int) -> None:
    if file == "chart":
        container = container_of(pods(render({}))["gateway"])
    else:
        objects = yaml.safe_load_all((ROOT / "deploy" / "kubernetes.yaml").read_text(encoding="utf-8"))
        (pod,) = (one["spec"]["template"] for one in objects if one["kind"] == "Deployment")
        container = container_of(pod)
    _Ready.status = status
    for name in ("admin_token", "view_token"):
        (tmp_path / name).write_text("secret\n", encoding="utf-8")
    _, *words = container["readinessProbe"]["exec"]["command"]
    script = words[-1].replace("/run/secrets/vision-infer", str(tmp_path)).replace(", 8080", f", {ready_server.server_port}")
    done = subprocess.run([sys.executable, *words[:-1], script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == result, done.stderr
    assert _Ready.asked == [("/readyz", "Bearer secret")]
    assert container["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "page"}


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


def test_the_service_leads_to_the_page(objects: Objects) -> None:
    service = objects["Service", "vision"]["spec"]
    pod = pods(objects)["gateway"]
    assert service["selector"].items() <= pod["metadata"]["labels"].items()
    named = {port["name"]: port["containerPort"] for port in container_of(pod)["ports"]}
    assert [named[port["targetPort"]] for port in service["ports"]] == [8080]
    assert objects["Deployment", "vision"]["spec"]["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()


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


def test_prometheus_reads_the_metrics_of_the_gateway() -> None:
    objects = render(FULL)
    monitor = objects["ServiceMonitor", "vision"]
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    (endpoint,) = monitor["spec"]["endpoints"]
    assert (endpoint["port"], endpoint["path"]) == ("page", "/metrics")
    assert endpoint["authorization"]["credentials"] == {"name": "vision-infer-tokens", "key": "view_token"}
    assert monitor["spec"]["selector"]["matchLabels"].items() <= objects["Service", "vision"]["metadata"]["labels"].items()
    assert "ServiceMonitor" not in {kind for kind, _ in render({})}


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
