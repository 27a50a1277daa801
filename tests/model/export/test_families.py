"""``model export``: the smallest member of each family, built from its configuration with random weights, against PyTorch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
import pytest

from tests.support.assets import photographs
from tests.support.exported import need_torch
from vision_infer.core.errors import ModelError, UsageError
from vision_infer.core.geometry import Size
from vision_infer.model.export.custom_model import custom_family
from vision_infer.model.export.exporting import RECORD_FILE, ExportRequest, Run, export_model
from vision_infer.model.export.families import family_names, find_family, read_family
from vision_infer.model.export.family import Built, Family, Refused
from vision_infer.model.export.to_onnx import OPSET, to_onnx
from vision_infer.model.importing import Proposal
from vision_infer.precision.verification.comparison import BATCHES, read_images
from vision_infer.precision.verification.export_check import verify_export
from vision_infer.precision.verification.import_check import verify_import

need_torch()

QUICK = ("resnet",)
"""Families that export quickly; the others take up to minutes on a busy machine."""
SIDES = {
    **{"clip": 224, "dinov2": 56, "rfdetr": 384, "rfdetrseg": 312, "dfine": 320, "rtdetrv2": 320},
    **{"deeplabv3": 64, "lraspp": 64, "segformer": 64, "owlv2": 64, "fcos": 160, "retinanet": 160, "ssd": 300, "ssdlite": 160},
}
"""The sides of inputs in pixels; the others have 64."""
TWO_STAGES = {"fasterrcnn", "keypointrcnn", "maskrcnn"}
REFUSED = TWO_STAGES | {"groundingdino"}


def exports() -> list[Any]:
    """Every family that can be exported; slow ones are marked."""
    names = [name for name in family_names() if name not in REFUSED]
    return [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in names]


def verify(proposal: Proposal, runs: Mapping[Size, Run]) -> list[dict[str, Any]]:
    """Verify as the command does, on photographs."""
    pictures = read_images(photographs())
    verify_import(proposal, pictures, untrained=True)
    return [entry.to_dict() for entry in verify_export(proposal, runs, pictures)]


def free_batch(path: Path) -> bool:
    """Whether the first dimension of all inputs and outputs is the same symbol."""
    ports = onnx.load(str(path), load_external_data=False).graph
    sides = [port.type.tensor_type.shape.dim[0] for port in (*ports.input, *ports.output)]
    return len({side.dim_param for side in sides}) == 1 and bool(sides[0].dim_param)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", exports())
def test_the_export_of_each_family_gives_the_results_of_pytorch(name: str, tmp_path: Path) -> None:
    family = read_family(name)
    assert isinstance(family, Family)
    side = SIDES.get(name, 64)
    messages: list[str] = []
    prompts = ("forklift", "person with helmet", "dog") if family.prompts else ()
    request = ExportRequest(name, "mine", tmp_path, family.variants[0], inputs=(Size(side, side),), prompts=prompts)
    path = export_model(request, family, messages.append, verify)
    assert free_batch(path)
    assert "RANDOM" in messages[0]
    record = json.loads((path.parent / RECORD_FILE).read_text())
    assert (record["family"], record["opset"], record["trained"]) == (name, OPSET, False)
    (entry,) = record["proofs"]
    assert entry["batches"] == list(BATCHES) == [1, 2, 5]
    assert entry["agreement_percent"] >= 99.9
    assert ("mask_iou" in entry) == (name == "rfdetrseg")
    assert entry.get("mask_iou", 1) >= 0.99
    assert entry["values"] <= 1e-3


def test_families_that_cannot_be_exported_are_refused_with_the_reason() -> None:
    assert {name for name in family_names() if isinstance(read_family(name), Refused)} == REFUSED
    for name in TWO_STAGES:
        with pytest.raises(
            ModelError, match=r"R-CNN cannot be exported: its second stage .* differs for each image; .*one stage"
        ):
            find_family(name)
    with pytest.raises(ModelError, match=r"Grounding DINO cannot be exported: .* Swin backbone .*owlv2"):
        find_family("groundingdino")


def test_texts_are_for_open_vocabularies_only(tmp_path: Path) -> None:
    for name, prompts, message in (
        ("owlv2", (), r'there are none\. Add them: --prompts "forklift, person"'),
        ("resnet", ("dog",), "--prompts: ResNet has fixed classes"),
    ):
        family = read_family(name)
        assert isinstance(family, Family)
        with pytest.raises(UsageError, match=message):
            export_model(ExportRequest(name, "mine", tmp_path, family.variants[0], prompts=prompts), family, print, verify)
    assert not list(tmp_path.iterdir())


def test_an_unknown_family_or_variant_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="Did you mean 'resnet'"):
        find_family("resnets")
    with pytest.raises(UsageError, match=r"has no variant 'tiny'\. Choose one of"):
        find_family("resnet/tiny")


NETS = """
import torch

class Mean(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3, 4)

    def forward(self, images):
        return self.layer(images.mean((2, 3)))

class Fixed(Mean):
    def forward(self, images):
        return super().forward(images).reshape(len([0] * int(images.shape[0])), 4)

class Ignores(Mean):
    def forward(self, images):
        return self.layer(images.mean((2, 3)).mean(0, keepdim=True))

CARD = {"head": "classify", "input": {"width": 32, "height": 24}, "labels": ["a", "b", "c", "d"]}

def mean(): return Mean(), CARD
def fixed(): return Fixed(), CARD
def ignores(): return Ignores(), CARD
def no_card(): return Mean()
def broken(): raise RuntimeError("a failure of the code")
"""


@pytest.fixture
def nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "nets_of_a_test.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "nets_of_a_test", raising=False)
    return tmp_path / "models"


def test_a_custom_model_is_exported(nets: Path) -> None:
    name = "nets_of_a_test:mean"
    path = export_model(ExportRequest(name, "own", nets, origin="given"), custom_family(name), lambda _: None, verify)
    assert free_batch(path)
    (entry,) = json.loads((path.parent / RECORD_FILE).read_text())["proofs"]
    assert (entry["height"], entry["width"], entry["agreement_percent"]) == (24, 32, 100)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("fixed", "the code fixes the batch at 2"),
        ("ignores", "exported with a fixed batch: 'logits' is"),
        ("no_card", "returns Mean"),
        ("broken", "failed with RuntimeError: a failure of the code"),
    ],
)
def test_a_failed_export_reports_one_line_and_leaves_no_files(nets: Path, function: str, message: str) -> None:
    name = f"nets_of_a_test:{function}"
    with pytest.raises(ModelError) as caught:
        export_model(ExportRequest(name, "own", nets, origin="given"), custom_family(name), lambda _: None, verify)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not nets.exists() or not list(nets.iterdir())


def test_a_graph_whose_results_differ_from_pytorch_is_refused(nets: Path) -> None:
    """The weights in PyTorch change after the export."""
    import torch

    network: Any = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 4))
    size = Size(32, 24)
    built: list[Built] = []

    def build(_: Any) -> Built:
        built.append(Built(network, ("logits",), {"labels": ["a", "b", "c", "d"]}))
        return built[0]

    def changed(proposal: Proposal, runs: Mapping[Size, Run]) -> list[dict[str, Any]]:
        with torch.no_grad():
            network[2].weight.mul_(-1)
        return verify(proposal, runs)

    family = Family("Changed", "classify", "classify", "torch", ("",), "nobody", build, lambda _: size)
    with pytest.raises(ModelError, match="the results of the graph differ from those of PyTorch"):
        export_model(ExportRequest("changed", "own", nets), family, lambda _: None, changed)
    assert not nets.exists() or not list(nets.iterdir())


def test_a_model_that_reads_its_batch_size_keeps_a_dynamic_batch() -> None:
    """DETRs read their batch size."""
    import torch

    class Asks(torch.nn.Module):
        def forward(self, images: Any) -> Any:
            return (images.mean((2, 3)).unsqueeze(1).expand(images.shape[0], 5, 3).flatten(1),)

    model = to_onnx(Built(Asks().eval(), ("logits",)), Size(16, 16), OPSET, "asks")
    first, last = (ports[0].type.tensor_type.shape.dim[0].dim_param for ports in (model.graph.input, model.graph.output))
    assert first == last != ""
