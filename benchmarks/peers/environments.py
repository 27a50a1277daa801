"""The environments of the other programs and the model that all run; what cannot be installed is reported and left out."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from vision_infer.model.importing import ImportRequest, import_model

HERE = Path(__file__).parent
# The same version of ONNX Runtime everywhere, so that programs are compared and not its versions.
RUNTIME = f"onnxruntime=={importlib.metadata.version('onnxruntime')}"
REQUIREMENTS = {"ultralytics": ("ultralytics", "onnx", "onnxslim", RUNTIME), "roboflow": ("inference",)}
LOADS = {"roboflow": "from inference import InferencePipeline"}
"""What a program must be able to run with the common version of ONNX Runtime, if it pins another one."""
SIZES = ("640x640", "384x640")
"""The input sizes of the model, height first."""
INSTALL_S = 900


@dataclass(slots=True)
class Peers:
    """The programs and models of the comparison."""

    pythons: dict[str, Path] = field(default_factory=dict)
    """The interpreter of each environment that could be created."""
    versions: dict[str, str] = field(default_factory=dict)
    raw: dict[str, Path] = field(default_factory=dict)
    """The model as Ultralytics exports it, by size; ``batches`` accepts several images; ``weights`` is for PyTorch."""
    graphs: dict[str, Path] = field(default_factory=dict)
    """The deployment graph of the same file, by size."""
    engines: Path = Path()
    """The engine cache of vision-infer."""
    missing: list[str] = field(default_factory=list)
    """What is missing, with the reason."""


def prepare(folder: Path) -> Peers:
    """Create the environments, export the model with Ultralytics, and import it; reuse what exists.

    Args:
        folder: The folder of the environments and models.
    """
    folder.mkdir(parents=True, exist_ok=True)
    peers = Peers(engines=folder / "engines")
    for name, packages in REQUIREMENTS.items():
        try:
            peers.pythons[name] = _environment(folder / name, packages)
            peers.versions |= _versions(peers.pythons[name], name)
        except (OSError, subprocess.SubprocessError) as error:
            peers.missing.append(f"{name}: cannot be installed: {_last_line(error)}")
    if "ultralytics" in peers.pythons:
        try:
            _export_model(peers, folder / "network")
        except (OSError, subprocess.SubprocessError) as error:
            peers.missing.append(f"YOLO11n: Ultralytics cannot export it: {_last_line(error)}")
    return peers


def _environment(folder: Path, packages: tuple[str, ...]) -> Path:
    python, stamp = folder / "bin" / "python", folder / "installed.json"
    if stamp.is_file() and json.loads(stamp.read_text()) == list(packages):
        return python
    print(f"{folder.name}: creating an environment (takes minutes)", file=sys.stderr)
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, capture_output=True, text=True)
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages]
    subprocess.run(install, check=True, capture_output=True, text=True, timeout=INSTALL_S)
    if RUNTIME not in packages:
        _use_same_runtime(python, LOADS[folder.name])
    stamp.write_text(json.dumps(packages))
    return python


def _use_same_runtime(python: Path, script: str) -> None:
    """Replace the version of ONNX Runtime that a program pins by the common one, if the program still loads with it."""
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    pinned = subprocess.run(
        [str(python), "-c", "import importlib.metadata as m; print(m.version('onnxruntime'))"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    try:
        subprocess.run([*install, RUNTIME], check=True, capture_output=True, text=True, timeout=INSTALL_S)
        subprocess.run([str(python), "-c", script], check=True, capture_output=True, text=True, timeout=INSTALL_S)
    except subprocess.SubprocessError:
        again = [*install, f"onnxruntime=={pinned}"]
        subprocess.run(again, check=True, capture_output=True, text=True, timeout=INSTALL_S)


def _versions(python: Path, name: str) -> dict[str, str]:
    packages = ("ultralytics", "torch", "onnxruntime", "opencv-python") if name == "ultralytics" else ("inference", "onnxruntime")
    script = f"import importlib.metadata as m, json; print(json.dumps({{n: m.version(n) for n in {packages!r}}}))"
    ran = subprocess.run([str(python), "-c", script], check=True, capture_output=True, text=True)
    return {f"{name}: {package}": version for package, version in json.loads(ran.stdout).items()}


def _export_model(peers: Peers, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    names = {"weights": "yolo11n.pt", "batches": "yolo11n-batches.onnx", **{size: f"yolo11n-{size}.onnx" for size in SIZES}}
    if not all((folder / file).is_file() for file in names.values()):
        export = [str(peers.pythons["ultralytics"]), str((HERE / "ultralytics_export.py").resolve()), str(folder.resolve())]
        subprocess.run(export, check=True, capture_output=True, text=True, cwd=folder, timeout=INSTALL_S)
    peers.raw = {name: (folder / file).resolve() for name, file in names.items()}
    for size in SIZES:
        model = import_model(
            ImportRequest(
                peers.raw[size], f"yolo11n-{size}", head="yolov8", labels="coco", model_dir=folder / "models", overwrite=True
            )
        )
        peers.graphs[size] = model.resolve()


def _last_line(error: Exception) -> str:
    stderr = getattr(error, "stderr", None)
    text = stderr if isinstance(stderr, str) and stderr.strip() else str(error)
    return text.strip().splitlines()[-1]
