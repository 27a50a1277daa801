"""Weights: from a file without running code of it, and into a network without leaving any part of it as it was."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from vision_infer.core.errors import ModelError
from vision_infer.model.export.library import load

_WRAPPERS = ("state_dict", "model_state_dict", "model", "ema", "module")
"""what trainers put the weights into"""
_SHOWN = 3
_Value = TypeVar("_Value")


def read_weights(path: Path, harmless: Iterable[type] = ()) -> dict[str, Any]:
    """Tensors by name, of a .safetensors file or of one that PyTorch wrote.

    Args:
        path: the file.
        harmless: classes without code of their own that the family's trainers put beside the weights.

    Raises:
        ModelError: it cannot be read, is none, holds anything but tensors and plain values, or no weights.
    """
    torch = load("torch")
    if not path.is_file():
        raise ModelError(f"{path}: no such file", "check the path of --weights")
    try:
        if path.suffix == ".safetensors":
            found = load("safetensors.torch").load_file(str(path))
        else:
            with torch.serialization.safe_globals(list(harmless)):
                found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        hint = "give a file of weights only: torch.save(model.state_dict(), …)"
        raise ModelError(f"{path.name}: {_unsafe(error)}", hint) from error
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror or error}", "check the file of --weights") from error
    except Exception as error:  # a broken file may raise anything
        message = f"{path.name}: is no file of weights, or one that breaks off ({_first_line(error)})"
        raise ModelError(message, "give a .safetensors file, or one that torch.save wrote") from error
    weights = _unwrapped(found, torch)
    if not weights:
        raise ModelError(f"{path.name}: holds no weights", "give a file that torch.save(model.state_dict(), …) wrote")
    return weights


def _unsafe(error: Exception) -> str:
    """What a pickle asked for that is more than weights, in few words."""
    text = str(error)
    for sign in ("GLOBAL ", "class "):
        _, found, rest = text.partition(sign)
        if found and rest.split():
            return f"holds more than weights ({rest.split()[0].strip('.,')}), and such a file can run code: it is refused"
    return "is no file of weights, or holds code, which is refused"


def _unwrapped(found: Any, torch: Any) -> dict[str, Any]:
    """The tensors themselves, out of what a trainer wraps around them."""
    for _ in range(3):
        if not isinstance(found, Mapping):
            return {}
        inner = next((found[key] for key in _WRAPPERS if isinstance(found.get(key), Mapping)), None)
        if inner is None:
            break
        found = inner
    tensors = {name: value for name, value in found.items() if isinstance(value, torch.Tensor)}
    # Training on several devices puts this before each name.
    return {str(name).removeprefix("module."): value for name, value in tensors.items()}


def load_into(module: Any, weights: Mapping[str, Any], where: str) -> None:
    """Give a network all its weights.

    Raises:
        ModelError: names or shapes are others than the network's; names the first of them.
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
    """Refuse weights that are not those of the network.

    Args:
        where: names the file.
        missing: names that the network has, and the file not.
        unknown: the reverse.
        shapes: name, shape in the file, shape in the network, where they differ.

    Raises:
        ModelError: there is one of these.
    """
    missing, unknown, shapes = sorted(missing), sorted(unknown), list(shapes)
    if shapes and not missing and not unknown:
        name, given, wanted = shapes[0]
        message = f"{where}: '{name}' is {list(given)} there and {list(wanted)} in the network"
        raise ModelError(message, "give --num-classes as it was trained, or the variant that it is of")
    told = [f"lacks {_some(missing)}"] if missing else []
    told += [f"has {_some(unknown)}, which the network does not know"] if unknown else []
    told += [f"'{shapes[0][0]}' is {list(shapes[0][1])} and not {list(shapes[0][2])}"] if shapes else []
    if told:
        raise ModelError(f"{where}: is of another network: it {', and '.join(told)}", "check family and variant")


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(f"'{name}'" for name in names[:_SHOWN]) + more


def downloaded(fetch: Callable[[], _Value], what: str) -> _Value:
    """What a library downloads.

    Raises:
        ModelError: it could not; says how to do without.
    """
    try:
        return fetch()
    except ModelError:
        raise
    except Exception as error:  # each library has errors of its own for a network that is not there
        message = f"{what} cannot be downloaded: {_first_line(error)}"
        raise ModelError(message, "get the file on another machine and give it with --weights FILE") from error


def _first_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return (text[:160] + "…" if len(text) > 160 else text) or type(error).__name__
