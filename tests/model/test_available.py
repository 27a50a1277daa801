"""The catalog: every card is valid and complete."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from vision_infer.core.card import InputSize
from vision_infer.core.errors import ModelError
from vision_infer.model.catalog import resolve_model
from vision_infer.model.export.families import find_family
from vision_infer.model.heads import head_names
from vision_infer.model.pull.available import (
    AvailableModel,
    available_dir,
    available_names,
    find_available,
    list_available,
    read_available,
)

OPEN = {"Apache-2.0", "BSD-3-Clause", "MIT"}
FAMILIES = {"YOLOX", "NanoDet-Plus", "DEIMv2", "D-FINE", "RT-DETRv2", "RF-DETR", "torchvision"}
CARD = """
name: mine
family: Mine
license: MIT
source: https://example.org/mine
input: { width: 32, height: 32 }
accuracy: [{ metric: "mAP", dataset: COCO, value: 1 }]
file: { url: "https://example.org/mine.onnx", read_in: README.md }
import: { head: yolox, labels: coco }
"""


@pytest.mark.parametrize("name", available_names())
def test_every_card_is_complete(name: str) -> None:
    card = find_available(name)
    assert card.license in OPEN
    assert card.family in FAMILIES
    assert all(figure.dataset and figure.source for figure in card.accuracy)
    assert card.file.read_in
    assert card.import_ is None or card.import_.head in head_names()
    place = urlsplit(card.file.url or card.file.page)
    assert place.scheme == "https"
    assert "@" not in place.netloc
    assert not place.query
    if card.family == "torchvision":
        stated = card.file.stated
        assert stated is not None
        assert card.file.name.rpartition("-")[2].startswith(stated.digits)


@pytest.mark.parametrize("card", [card for card in list_available() if card.export], ids=lambda card: card.name)
def test_models_to_export_have_an_export_family(card: AvailableModel) -> None:
    assert card.export is not None
    _, family, _ = find_family(card.export.family)
    assert family.task == card.task
    assert card.input == InputSize(**asdict(family.input_size(card.export.family.partition("/")[2])))


def test_the_catalog_has_each_family() -> None:
    cards = list_available()
    assert {card.family for card in cards} == FAMILIES
    assert len({card.file.url for card in cards if card.file.url}) == sum(bool(card.file.url) for card in cards)
    assert [card.name for card in cards] == list(available_names())


def test_the_catalog_is_part_of_the_wheel() -> None:
    assert available_dir().parent.joinpath("nanodet-416").is_dir()


def test_an_unknown_name_suggests_similar_names() -> None:
    with pytest.raises(ModelError, match="Did you mean yolox-nano"):
        find_available("yolox-nan")
    with pytest.raises(ModelError, match="Download it with 'vision-infer model pull yolox-nano'"):
        resolve_model("yolox-nano", Path("/nonexistent"))


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ("https://example.org/mine.onnx", "http://example.org/mine.onnx", "must be https://"),
        ('url: "https://example.org/mine.onnx", ', "", "must have either a url or a page"),
        ("import: { head: yolox, labels: coco }", "", "must have either import or export"),
        ("read_in: README.md", "read_in: README.md, checksum: abc", "must be sha256:"),
        ("license: MIT", "", "license"),
        ("name: mine", "name: other", "its name field is 'other'"),
        ("name: mine", "name: [", "cannot be read"),
        ("width: 32", "width: .inf", "input.width"),
    ],
)
def test_an_invalid_card_is_refused(tmp_path: Path, before: str, after: str, says: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(CARD)
    assert read_available(path).file.name == "mine.onnx"
    assert before in CARD
    path.write_text(CARD.replace(before, after))
    with pytest.raises(ModelError) as caught:
        read_available(path)
    assert says in str(caught.value)


def test_a_file_name_cannot_leave_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    for url in ("https://example.org/..", "https://example.org/a/..%2F..%2Fx", "https://example.org/", "https://example.org/.x"):
        path.write_text(CARD.replace("https://example.org/mine.onnx", url))
        assert read_available(path).file.name == "weights"
