"""Custom models: a function ``module:function`` of the user returns the model and the fields of its card."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping
from functools import partial
from typing import Any

from vision_infer.core.card import ModelCard, parse_card
from vision_infer.core.errors import ModelError, UsageError
from vision_infer.model.export.family import Built, Family, Order
from vision_infer.model.export.library import load
from vision_infer.model.export.weights import load_into, read_weights
from vision_infer.model.heads import find_head

_EXPECTED = "It must return a torch.nn.Module and the fields of its card: 'head', 'input' and, if there are several, 'outputs'."
_OUTPUTS = {"classify": ("logits",), "embed": ("embedding",)}


def custom_family(text: str) -> Family:
    """Return a family for the one model that a function returns.

    Args:
        text: ``module:function``; the module is in the current folder, or installed.

    Raises:
        UsageError: The module or function does not exist.
        ModelError: The function fails, or does not return a model and its card.
    """
    module_name, _, path = text.partition(":")
    if not all(part.isidentifier() for part in f"{module_name}.{path}".split(".")):
        raise UsageError(f"{text}: not of the form MODULE:FUNCTION", "For the function mine in nets.py, use nets:mine.")
    found: Any = _import(module_name, text)
    for part in path.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        raise UsageError(f"{text}: the module {module_name} has no function {path}", "Check the name.")
    try:
        given = found()
    except Exception as error:
        raise ModelError(f"{text}: failed with {type(error).__name__}: {error}", "Call it in Python for a traceback.") from error
    network, fields, outputs = _check_given(given, text)
    card = parse_card({"name": "x"} | fields, text)
    find_head(card.head)
    build = partial(_build, network=network, fields=fields, outputs=outputs, where=text)
    size = card.input_size
    return Family(text, card.head, card.task, "torch", ("",), f"the function {text} itself", build, lambda _: size)


def _import(module: str, where: str) -> Any:
    load("torch")
    folder = os.getcwd()
    sys.path.insert(0, folder)
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.partition(".")[0] and error.name != module:
            raise ModelError(f"{where}: needs the module {error.name}, which is not installed", "Install it.") from error
        raise UsageError(f"{where}: the module {module} does not exist", "Run the command in the folder of that file.") from error
    except Exception as error:
        message = f"{where}: the module fails with {type(error).__name__}: {error}"
        raise ModelError(message, "Import it in Python to see the traceback.") from error
    finally:
        sys.path.remove(folder)


def _check_given(given: Any, where: str) -> tuple[Any, dict[str, Any], tuple[str, ...]]:
    """Return the model, the fields of its card, and the names of its outputs."""
    torch = load("torch")
    if not (isinstance(given, tuple) and len(given) == 2 and isinstance(given[0], torch.nn.Module)):
        raise ModelError(f"{where}: returns {type(given).__name__}", _EXPECTED)
    network, card = given
    fields = card.model_dump(exclude_unset=True) if isinstance(card, ModelCard) else card
    if not isinstance(fields, Mapping) or not fields.get("head"):
        raise ModelError(f"{where}: the card has no head", _EXPECTED)
    fields = dict(fields)
    defaults = find_head(str(fields["head"])).DEFAULTS
    fields["task"] = defaults.task
    if defaults.keypoints is not None and "keypoints" in (defaults.task, defaults.detail):
        fields = {"keypoints": defaults.keypoints.model_dump(), "detail": defaults.detail} | fields
    fields.setdefault("input", {"width": defaults.input_size.width, "height": defaults.input_size.height})
    outputs = fields.pop("outputs", None) or _OUTPUTS.get(defaults.task, ("output",))
    fields.pop("name", None)
    return network, fields, tuple(map(str, outputs))


def _build(order: Order, network: Any, fields: dict[str, Any], outputs: tuple[str, ...], where: str) -> Built:
    if order.classes is not None:
        raise UsageError("--num-classes is for families only", f"The function {where} sets the number of classes.")
    if order.file is not None:
        load_into(network, read_weights(order.file), order.file.name)
    known = {field: value for field, value in fields.items() if field != "input"}
    return Built(network, outputs, known)
