"""A person's own network: ``module:function`` gives it, and a card that tells what it is.

Nothing of that module is imported before a person names it.
"""

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

_EXPECTED = "it has to give a pair: a torch.nn.Module, and the fields of its card with 'head', 'input' and, if several, 'outputs'"
_OUTPUTS = {"classify": ("logits",), "embed": ("embedding",)}


def given_family(text: str) -> Family:
    """The family of the one network that a function gives.

    Args:
        text: ``module:function``; the module is imported from the current folder, or from what is installed.

    Raises:
        UsageError: there is no such module or function.
        ModelError: it fails, or gives something else than a network and its card.
    """
    module_name, _, path = text.partition(":")
    if not all(part.isidentifier() for part in f"{module_name}.{path}".split(".")):
        raise UsageError(f"{text}: is no MODULE:FUNCTION", "write nets:mine for the function mine of nets.py in this folder")
    found: Any = _import(module_name, text)
    for part in path.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        raise UsageError(f"{text}: the module {module_name} has no function {path}", "check the name")
    try:
        given = found()
    except Exception as error:
        raise ModelError(f"{text}: failed with {type(error).__name__}: {error}", "call it in Python to see more") from error
    network, fields, outputs = _taken_apart(given, text)
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
            raise ModelError(f"{where}: needs the module {error.name}, which is not here", "install it") from error
        raise UsageError(f"{where}: there is no module {module} here", "run the command in the folder of that file") from error
    except Exception as error:
        message = f"{where}: its module fails with {type(error).__name__}: {error}"
        raise ModelError(message, "import it in Python to see more") from error
    finally:
        sys.path.remove(folder)


def _taken_apart(given: Any, where: str) -> tuple[Any, dict[str, Any], tuple[str, ...]]:
    """The network, its card's fields, and the names of its outputs."""
    torch = load("torch")
    if not (isinstance(given, tuple) and len(given) == 2 and isinstance(given[0], torch.nn.Module)):
        raise ModelError(f"{where}: gives {type(given).__name__}", _EXPECTED)
    network, card = given
    fields = card.model_dump(exclude_unset=True) if isinstance(card, ModelCard) else card
    if not isinstance(fields, Mapping) or not fields.get("head"):
        raise ModelError(f"{where}: its card does not name a head", _EXPECTED)
    fields = dict(fields)
    defaults = find_head(str(fields["head"])).DEFAULTS
    fields["task"] = defaults.task
    fields.setdefault("input", {"width": defaults.input_size.width, "height": defaults.input_size.height})
    outputs = fields.pop("outputs", None) or _OUTPUTS.get(defaults.task, ("output",))
    fields.pop("name", None)
    return network, fields, tuple(map(str, outputs))


def _build(order: Order, network: Any, fields: dict[str, Any], outputs: tuple[str, ...], where: str) -> Built:
    if order.classes is not None:
        raise UsageError("--num-classes is for families", f"{where} itself says how many classes its network has")
    if order.file is not None:
        load_into(network, read_weights(order.file), order.file.name)
    known = {field: value for field, value in fields.items() if field not in ("input", "task")}
    return Built(network, outputs, known)
