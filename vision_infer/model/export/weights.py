"""Loading of weights: from a file without running code in it, and into all parts of a model."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from vision_infer.core.errors import ModelError
from vision_infer.model.export.library import load

_WRAPPERS = ("state_dict", "model_state_dict", "model", "ema", "module")
"""The keys under which trainers store the weights."""
_SHOWN = 3
_Value = TypeVar("_Value")


def read_weights(path: Path, harmless: Iterable[type] = ()) -> dict[str, Any]:
    """Read tensors by name from a .safetensors file or a PyTorch file.

    Args:
        path: The file.
        harmless: Classes without code that the family's trainers store with the weights.

    Raises:
        ModelError: The file cannot be read, is not a file of weights, or has other contents than tensors and plain values.
    """
    torch = load("torch")
    if not path.is_file():
        raise ModelError(f"{path}: no such file", "Check the path of --weights.")
    try:
        if path.suffix == ".safetensors":
            found = load("safetensors.torch").load_file(str(path))
        else:
            with torch.serialization.safe_globals(list(harmless)):
                found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        hint = "Use a file with weights only: torch.save(model.state_dict(), …)."
        raise ModelError(f"{path.name}: {_unsafe(error)}", hint) from error
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror or error}", "Check the file of --weights.") from error
    except Exception as error:  # a broken file may raise anything
        message = f"{path.name}: not a file of weights, or an incomplete one ({_first_line(error)})"
        raise ModelError(message, "Use a .safetensors file, or one written by torch.save.") from error
    weights = _unwrapped(found, torch)
    if not weights:
        raise ModelError(f"{path.name}: the file has no weights", "Use a file written by torch.save(model.state_dict(), …).")
    return weights


def _unsafe(error: Exception) -> str:
    """Describe the contents of a pickle that are not weights."""
    text = str(error)
    for sign in ("GLOBAL ", "class "):
        _, found, rest = text.partition(sign)
        if found and rest.split():
            return f"refused, because it has other contents than weights ({rest.split()[0].strip('.,')}), which can run code"
    return "refused, because it is not a file of weights, or contains code"


def _unwrapped(found: Any, torch: Any) -> dict[str, Any]:
    """Return the tensors inside the structure of a trainer."""
    for _ in range(3):
        if not isinstance(found, Mapping):
            return {}
        inner = next((found[key] for key in _WRAPPERS if isinstance(found.get(key), Mapping)), None)
        if inner is None:
            break
        found = inner
    tensors = {name: value for name, value in found.items() if isinstance(value, torch.Tensor)}
    # Training on several devices adds this prefix.
    return {str(name).removeprefix("module."): value for name, value in tensors.items()}


def load_into(module: Any, weights: Mapping[str, Any], where: str) -> None:
    """Load all weights into a model.

    Raises:
        ModelError: Names or shapes differ from those of the model.
    """
    own = module.state_dict()
    missing = [name for name in own if name not in weights and not name.endswith("num_batches_tracked")]
    unknown = [name for name in weights if name not in own]
    shapes = [(name, weights[name], own[name]) for name in own if name in weights and weights[name].shape != own[name].shape]
    refuse_misfit(where, missing, unknown, [(name, tuple(left.shape), tuple(right.shape)) for name, left, right in shapes])
    module.load_state_dict(dict(weights), strict=False)


def refuse_misfit(
    where: str, missing: Iterable[str], unknown: Iterable[str], shapes: Iterable[tuple[str, tuple[int, ...], tuple[int, ...]]]
) -> None:
    """Refuse weights that do not belong to the model.

    Args:
        where: The name of the file.
        missing: The names that only the model has.
        unknown: The names that only the file has.
        shapes: The name, the shape in the file and the shape in the model, where they differ.

    Raises:
        ModelError: One of these is not empty.
    """
    missing, unknown, shapes = sorted(missing), sorted(unknown), list(shapes)
    if shapes and not missing and not unknown:
        name, given, wanted = shapes[0]
        message = f"{where}: '{name}' is {list(given)} in the file and {list(wanted)} in the model"
        raise ModelError(message, "Set --num-classes to that of the training, or choose the variant of the file.")
    reasons = [f"lacks {_some(missing)}"] if missing else []
    reasons += [f"has {_some(unknown)}, which the model does not have"] if unknown else []
    reasons += [f"'{shapes[0][0]}' is {list(shapes[0][1])} instead of {list(shapes[0][2])}"] if shapes else []
    if reasons:
        raise ModelError(f"{where}: weights of another model: the file {', and '.join(reasons)}", "Check family and variant.")


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(f"'{name}'" for name in names[:_SHOWN]) + more


def downloaded(fetch: Callable[[], _Value], what: str) -> _Value:
    """Return what a library downloads.

    Raises:
        ModelError: The download failed.
    """
    try:
        return fetch()
    except ModelError:
        raise
    except Exception as error:  # each library has its own errors for a failed connection
        message = f"{what} cannot be downloaded: {_first_line(error)}"
        raise ModelError(message, "Download the file on another machine and add --weights FILE.") from error


def _first_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return (text[:160] + "…" if len(text) > 160 else text) or type(error).__name__
