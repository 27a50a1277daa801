"""Objects that accept exactly the names and arguments that the real binding of TensorRT documents for its classes.

The binding writes the signature of every overload and property into its documentation. So the package's own calls can be checked
without a GPU, and for TensorRT without NVIDIA's libraries.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Any, NamedTuple, SupportsInt

_SIGNATURE = re.compile(r"^(?:\d+\. )?(?:\w+)?\((?P<arguments>.*)\) -> (?P<returns>.+)$", re.MULTILINE)
_SIMPLE: dict[str, type | tuple[type, ...]] = {
    "str": str,
    "bool": bool,
    "tuple": tuple,
    "list": list,
    "int": int,
    "Buffer": bytes,
}


class Signature(NamedTuple):
    """One overload, without ``self``."""

    names: tuple[str, ...]
    kinds: tuple[str, ...]
    required: int
    returns: str


class StrictModule:
    """The binding's module, whose constructors return :class:`StrictObject`.

    Args:
        module: The real module.
        values: What calls and properties return, by class and name: ``{"ICudaEngine.device_memory_size_v2": 1000}``. A function
            is called with the arguments. Without a value, a call returns True, None, or an object of the documented class.
    """

    def __init__(self, module: Any, values: Mapping[str, Any]) -> None:
        self.real = module
        self.values = dict(values)
        self.used: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.real, name)
        if name not in ("Builder", "OnnxParser", "Runtime"):
            return found

        def construct(*arguments: Any) -> StrictObject:
            self.check(found, "__init__", found.__init__.__doc__, arguments, {})
            return StrictObject(self, found)

        return construct

    def make(self, kind: str, **values: Any) -> StrictObject:
        """Return an object of a class with its own values."""
        return StrictObject(self, getattr(self.real, kind), values)

    def check(self, kind: type, name: str, doc: str | None, arguments: tuple[Any, ...], named: Mapping[str, Any]) -> Signature:
        """Return the overload that accepts the arguments; fail if there is none."""
        self.used.add(f"{kind.__name__}.{name}")
        overloads = signatures(doc)
        for one in overloads:
            values = dict(zip(one.names, arguments, strict=False)) | dict(named)
            given = [one.names.index(key) for key in values if key in one.names]
            fits = len(given) == len(arguments) + len(named) and len(given) >= one.required
            if fits and all(self._accepts(one.kinds[place], values[one.names[place]]) for place in given):
                return one
        raise AssertionError(f"{kind.__name__}.{name}{arguments} {dict(named)} fits none of {overloads}")

    def result(self, kind: type, name: str, returns: str, own: Mapping[str, Any], arguments: tuple[Any, ...]) -> Any:
        """Return the value of a call or property."""
        label = f"{kind.__name__}.{name}"
        value = own.get(name, self.values.get(label, Ellipsis))
        if value is not Ellipsis:
            return value(*arguments) if inspect.isfunction(value) else value
        last = _last(returns)
        if last in ("bool", "None"):
            return True if last == "bool" else None
        assert hasattr(self.real, last), f"{label} needs a value: it returns {returns}"
        return StrictObject(self, getattr(self.real, last))

    def _accepts(self, kind: str, value: Any) -> bool:
        last = _last(kind)
        if last == "SupportsInt":
            return isinstance(value, SupportsInt) and not isinstance(value, str)
        if last == "Dims":
            return isinstance(value, tuple | list) and all(isinstance(side, int) for side in value)
        if last in _SIMPLE:
            return isinstance(value, _SIMPLE[last])
        wanted = getattr(self.real, last)
        return isinstance(value, wanted) or (isinstance(value, StrictObject) and issubclass(value.kind, wanted))


class StrictObject:
    """An object of one of the binding's classes."""

    def __init__(self, module: StrictModule, kind: type, values: Mapping[str, Any] | None = None) -> None:
        self.__dict__.update(module=module, kind=kind, values=values or {})

    def __getattr__(self, name: str) -> Any:
        found = inspect.getattr_static(self.kind, name)  # raises AttributeError like the real object
        if isinstance(found, property):
            (getter,) = signatures(found.fget.__doc__)
            self.module.used.add(f"{self.kind.__name__}.{name}")
            return self.module.result(self.kind, name, getter.returns, self.values, ())

        def call(*arguments: Any, **named: Any) -> Any:
            overload = self.module.check(self.kind, name, getattr(self.kind, name).__doc__, arguments, named)
            return self.module.result(self.kind, name, overload.returns, self.values, arguments)

        return call

    def __setattr__(self, name: str, value: Any) -> None:
        found = inspect.getattr_static(self.kind, name)
        assert isinstance(found, property), f"{self.kind.__name__}.{name} is not a property"
        assert found.fset is not None, f"{self.kind.__name__}.{name} cannot be set"
        (getter,) = signatures(found.fget.__doc__)
        self.module.used.add(f"{self.kind.__name__}.{name}")
        assert self.module._accepts(getter.returns, value), f"{self.kind.__name__}.{name} is {getter.returns}, not {value}"

    def __bytes__(self) -> bytes:
        assert self.kind.__name__ == "IHostMemory"
        return b"serialized"


def signatures(doc: str | None) -> list[Signature]:
    """Return the overloads in the documentation of a method, or of a property's function."""
    return [_signature(found["arguments"], found["returns"]) for found in _SIGNATURE.finditer(doc or "")]


def _signature(text: str, returns: str) -> Signature:
    parts = [part for part in _split(text)[1:] if part]  # without self
    names, kinds = zip(*(part.split(": ", 1) for part in parts), strict=True) if parts else ((), ())
    required = sum(" = " not in kind for kind in kinds)
    return Signature(tuple(names), tuple(kind.split(" = ")[0] for kind in kinds), required, returns)


def _split(text: str) -> list[str]:
    """Split at the commas that are not inside brackets."""
    parts, depth = [""], 0
    for letter in text:
        depth += letter in "[(<"
        depth -= letter in "])>"
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]


def _last(kind: str) -> str:
    return re.split(r"[.:]+", kind)[-1]
