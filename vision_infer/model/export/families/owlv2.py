"""OWLv2, of transformers: detects what texts describe; the texts are chosen at the export (Minderer et al., 2023)."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from vision_infer.core.errors import UsageError
from vision_infer.core.geometry import Size
from vision_infer.model.export.family import Built, Family, Order
from vision_infer.model.export.library import load
from vision_infer.model.export.transformers_models import TransformersRecipe, load_network
from vision_infer.model.export.weights import downloaded

_REPOSITORIES = {"b16": "google/owlv2-base-patch16-ensemble", "l14": "google/owlv2-large-patch14-ensemble"}
_SIDES = {"b16": 960, "l14": 1008}
_TOKENS = 16
"""The number of tokens of a text."""
_CARD = {"mean": (122.7709, 116.746, 104.0937), "std": (68.5005, 66.6322, 70.3232), "fit": "top_left", "fill": (128, 128, 128)}


def configure(config: Any, variant: str, side: int | None = None) -> None:
    """Set the configuration of a variant as its authors trained it, or for another side of the input, pixels."""
    text, vision = config.text_config, config.vision_config
    vision.image_size = side or _SIDES[variant]
    if variant == "b16":
        text.hidden_size, text.intermediate_size, text.num_attention_heads = 512, 2048, 8
        vision.patch_size = 16
        config.projection_dim = 512
    else:
        text.hidden_size, text.intermediate_size, text.num_attention_heads = 768, 3072, 12
        vision.hidden_size, vision.intermediate_size, vision.num_attention_heads = 1024, 4096, 16
        vision.num_hidden_layers, vision.patch_size = 24, 14
        config.projection_dim = 768


RECIPE = TransformersRecipe(
    "Owlv2Config",
    "Owlv2ForObjectDetection",
    _REPOSITORIES,
    "Apache-2.0",
    configure,
    ("logits", "pred_boxes"),
    attribution="Google",
)


def _build(order: Order) -> Built:
    if not order.prompts:
        raise UsageError("OWLv2 detects what texts describe, but there are none", 'Add them: --prompts "forklift, person".')
    if order.classes is not None:
        raise UsageError("--num-classes does not apply to OWLv2", "Each text of --prompts is a class.")
    side = _SIDES[order.variant]
    if order.size.width != order.size.height or (order.origin != "random" and order.size.width != side):
        raise UsageError(f"OWLv2 has one input size, {side}x{side}", "Remove --input.")
    torch = load("torch")
    recipe = replace(RECIPE, configure=partial(configure, side=order.size.width))
    network, fields = load_network(order, recipe, _CARD)
    with torch.no_grad():
        tokens = _tokens(order, network)
        texts = network.owlv2.text_projection(network.owlv2.text_model(**tokens).pooler_output)
        texts = texts / torch.linalg.norm(texts, dim=-1, keepdim=True)
    return Built(_image_part(network, texts), RECIPE.outputs, {**fields, "labels": order.prompts})


def _tokens(order: Order, network: Any) -> dict[str, Any]:
    """Return the tokens of the texts; with random weights random ones."""
    torch = load("torch")
    if order.origin == "random":
        ids = torch.randint(1, network.config.text_config.vocab_size - 2, (len(order.prompts), _TOKENS))
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    source = _REPOSITORIES[order.variant] if order.file is None else str(order.file.parent)
    tokenizer = downloaded(partial(load("transformers").AutoTokenizer.from_pretrained, source), f"the tokenizer of {source}")
    found = tokenizer(list(order.prompts), padding="max_length", truncation=True, max_length=_TOKENS, return_tensors="pt")
    return {"input_ids": found["input_ids"], "attention_mask": found["attention_mask"]}


def _image_part(network: Any, texts: Any) -> Any:
    base: Any = load("torch").nn.Module

    class ImagePart(base):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.network = network
            self.register_buffer("texts", texts)

        def forward(self, images: Any) -> Any:
            features = self.network.image_embedder(pixel_values=images)[0]
            rows = features.flatten(1, 2)
            # Texts for each image, because ONNX's shape inference needs the same number of axes on both sides of a product.
            texts = self.texts[None].expand(images.shape[0], -1, -1)
            return self.network.class_predictor(rows, texts)[0], self.network.box_predictor(rows, features)

    return ImagePart()


FAMILY = Family(
    "OWLv2",
    "detr",
    "detect",
    "transformers",
    tuple(_REPOSITORIES),
    RECIPE.official,
    _build,
    lambda variant: Size(_SIDES[variant], _SIDES[variant]),
    multiple=1,
    scores="sigmoid",
    prompts=True,
)
