"""The peers' environments and the network that all run; what cannot be had is told and left out."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from vision_infer.model.importing import ImportRequest, import_model

HERE = Path(__file__).parent
REQUIREMENTS = {
    # The same ONNX Runtime as ours, so that programs are compared and not releases of it.
    "ultralytics": ("ultralytics", "onnx", "onnxslim", f"onnxruntime=={importlib.metadata.version('onnxruntime')}"),
    "roboflow": ("inference",),
}
SIZES = ("640x640", "384x640")
"""of the network's input, height first"""
INSTALL_S = 900


@dataclass(slots=True)
class Peers:
    """What there is to compare with."""

    pythons: dict[str, Path] = field(default_factory=dict)
    """the interpreter of each environment that could be made"""
    versions: dict[str, str] = field(default_factory=dict)
    raw: dict[str, Path] = field(default_factory=dict)
    """the network as Ultralytics exports it, by size; ``batches`` takes several pictures; ``weights`` for PyTorch"""
    graphs: dict[str, Path] = field(default_factory=dict)
    """the deployment graph of the same file, by size"""
    engines: Path = Path()
    """where our engines are kept, and what was found about them"""
    missing: list[str] = field(default_factory=list)
    """what could not be had, and why"""


def prepare(folder: Path) -> Peers:
    """Make the environments, let Ultralytics export the network, and import it; what is there already is used again.

    Args:
        folder: where all of it is kept.
    """
    folder.mkdir(parents=True, exist_ok=True)
    peers = Peers(engines=folder / "engines")
    for name, packages in REQUIREMENTS.items():
        try:
            peers.pythons[name] = _environment(folder / name, packages)
            peers.versions |= _versions(peers.pythons[name], name)
        except (OSError, subprocess.SubprocessError) as error:
            peers.missing.append(f"{name}: cannot be installed here: {_last_line(error)}")
    if "ultralytics" in peers.pythons:
        try:
            _network(peers, folder / "network")
        except (OSError, subprocess.SubprocessError) as error:
            peers.missing.append(f"YOLO11n: Ultralytics cannot export it: {_last_line(error)}")
    return peers


def _environment(folder: Path, packages: tuple[str, ...]) -> Path:
    python, stamp = folder / "bin" / "python", folder / "installed.json"
    if stamp.is_file() and json.loads(stamp.read_text()) == list(packages):
        return python
    print(f"{folder.name}: an environment is made (minutes)", file=sys.stderr)
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, capture_output=True, text=True)
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages]
    subprocess.run(install, check=True, capture_output=True, text=True, timeout=INSTALL_S)
    stamp.write_text(json.dumps(packages))
    return python


def _versions(python: Path, name: str) -> dict[str, str]:
    asked = {"ultralytics": ("ultralytics", "torch", "onnxruntime", "opencv-python"), "roboflow": ("inference", "onnxruntime")}[
        name
    ]
    told = f"import importlib.metadata as m, json; print(json.dumps({{n: m.version(n) for n in {asked!r}}}))"
    ran = subprocess.run([str(python), "-c", told], check=True, capture_output=True, text=True)
    return {f"{name}: {package}": version for package, version in json.loads(ran.stdout).items()}


def _network(peers: Peers, folder: Path) -> None:
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
    said = getattr(error, "stderr", None)
    text = said if isinstance(said, str) and said.strip() else str(error)
    return text.strip().splitlines()[-1]
