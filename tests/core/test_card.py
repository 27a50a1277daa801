"""The model card: it survives a round trip through a graph, and an error names the field."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from vision_infer.core.card import Accuracy, InputSize, ModelCard, Weights, parse_card, parse_card_json
from vision_infer.core.errors import ModelError
from vision_infer.core.geometry import Size

MINIMAL: dict[str, Any] = {"name": "net", "input": {"width": 416, "height": 320}}
NUMBER = st.floats(-1000, 1000)
CARDS = st.builds(
    ModelCard,
    name=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", fullmatch=True),
    task=st.sampled_from(["detect", "classify", "embed", "segment"]),
    head=st.text(max_size=8),
    input=st.builds(InputSize, width=st.integers(1, 16384), height=st.integers(1, 16384)),
    color=st.sampled_from(["rgb", "bgr"]),
    mean=st.tuples(NUMBER, NUMBER, NUMBER),
    std=st.tuples(*[st.floats(0.001, 1000)] * 3),
    fit=st.sampled_from(["center", "top_left", "stretch"]),
    fill=st.tuples(*[st.integers(0, 255)] * 3),
    labels=st.none() | st.lists(st.text(max_size=8), max_size=4).map(tuple),
    confidence=st.floats(0, 1),
    iou=st.none() | st.floats(0.01, 1),
    weights=st.builds(Weights, source=st.text(max_size=8), sha256=st.sampled_from(["", "0" * 64])),
    accuracy=st.lists(st.builds(Accuracy, metric=st.text(), dataset=st.text(), value=NUMBER), max_size=2).map(tuple),
)


@given(CARDS)
def test_a_card_survives_a_round_trip_through_a_graph(card: ModelCard) -> None:
    assert parse_card_json(card.to_json(), "graph.onnx") == card


def test_only_name_and_input_are_needed() -> None:
    card = parse_card(MINIMAL, "model.yaml")
    assert card.input_size == Size(416, 320)
    assert (card.task, card.color, card.fit, card.fill, card.labels) == ("detect", "rgb", "center", (114, 114, 114), None)


def test_labels_are_by_class_number() -> None:
    card = parse_card(MINIMAL | {"labels": ["a", "b"]}, "model.yaml")
    assert [card.label(number) for number in (0, 1, 2, -1)] == ["a", "b", "2", "-1"]
    assert parse_card(MINIMAL, "model.yaml").label(7) == "7"


@pytest.mark.parametrize(
    ("field", "changed"),
    [
        ("name", {"name": None}),
        ("name", {"name": "../up"}),
        ("name", {"name": ""}),
        ("input", {"input": None}),
        ("input.width", {"input": {"height": 1}}),
        ("input.width", {"input": {"width": 0, "height": 1}}),
        ("input.height", {"input": {"width": 1, "height": 20000}}),
        ("task", {"task": "caption"}),
        ("color", {"color": "hsv"}),
        ("mean", {"mean": 1.0}),
        ("mean.2", {"mean": [1, 2]}),
        ("mean.0", {"mean": [float("nan"), 2, 3]}),
        ("std", {"std": [1, 0, 1]}),
        ("std.1", {"std": [1, float("inf"), 1]}),
        ("fit", {"fit": "squeeze"}),
        ("fill.2", {"fill": [0, 0, 256]}),
        ("labels.1", {"labels": ["a", 2]}),
        ("confidence", {"confidence": 1.5}),
        ("iou", {"iou": 0}),
        ("precision", {"precision": "fp8"}),
        ("weights.sha256", {"weights": {"sha256": "abc"}}),
        ("accuracy.0.value", {"accuracy": [{"metric": "mAP", "dataset": "COCO"}]}),
        ("hue", {"hue": "rgb"}),
    ],
)
def test_an_error_names_the_file_and_the_field(field: str, changed: dict[str, Any]) -> None:
    with pytest.raises(ModelError) as caught:
        parse_card(MINIMAL | changed, "models/net/model.yaml")
    assert caught.value.message.startswith(f"models/net/model.yaml: field '{field}': ")
    assert "docs/reference/results.md" in caught.value.hint
    assert "\n" not in str(caught.value)


def test_the_error_of_a_missing_field_has_no_other_input() -> None:
    with pytest.raises(ModelError) as caught:
        parse_card({"name": "net"}, "card")
    assert caught.value.message == "card: field 'input': is missing"


@pytest.mark.parametrize("data", [None, [], "text", 7])
def test_a_card_must_be_a_mapping(data: object) -> None:
    with pytest.raises(ModelError, match=r"model\.yaml: field 'card': "):
        parse_card(data, "model.yaml")


@pytest.mark.parametrize("text", ["", "{", "name: net", "[" * 100_000])
def test_a_card_must_be_valid_json(text: str) -> None:
    with pytest.raises(ModelError, match=r"graph\.onnx: the card is not valid JSON"):
        parse_card_json(text, "graph.onnx")


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_any_json_gives_a_card_or_one_line(data: object) -> None:
    with pytest.raises(ModelError) as caught:
        parse_card_json(json.dumps(data), "graph.onnx")
    assert len(str(caught.value).splitlines()) == 1


def test_a_card_is_frozen() -> None:
    card = parse_card(MINIMAL, "model.yaml")
    with pytest.raises(ValidationError, match="frozen"):
        setattr(card, "name", "other")  # noqa: B010 - the type checker refuses it too
