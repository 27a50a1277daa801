"""The two modules that build and run plans, ``tensorrt`` and ``tensorrt_rtx``, behind one interface.

The differences: TensorRT-RTX builds for GPUs that are not in the machine, and has no timing cache. TensorRT builds for the GPU of
the machine, times kernels on it, and can build plans for later versions or other GPUs.
"""

from __future__ import annotations

import re
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Literal

from vision_infer.core.errors import EngineError
from vision_infer.core.packages import install
from vision_infer.engine.gpu.accelerator import DeviceMemoryError
from vision_infer.engine.tensorrt.names import MODULES, PLAN_RUNTIMES, TITLES, PlanRuntime, capability_number

MAX_MESSAGES = 50
_NOISE = ("global log stream",)
"""Messages that TensorRT-RTX logs as fatal whenever Python creates a logger, and that mean nothing."""
_NO_MEMORY = re.compile(r"out ?of ?memory|requested size was|could not be allocated|failed to allocate", re.IGNORECASE)
"""The words for too little memory. Some are in warnings only, and the last error is then about something else."""


@dataclass(frozen=True, slots=True)
class Api:
    """One of the two modules, loaded."""

    runtime: PlanRuntime
    module: Any
    version: str
    """The version, such as ``1.7.1.116``."""
    builds_ahead: bool
    """Whether it builds for named compute capabilities, without a GPU."""
    has_timings: bool
    """Whether it times kernels, and can use the timings of earlier builds."""

    @property
    def title(self) -> str:
        """The name as its makers write it."""
        return TITLES[self.runtime]

    def capabilities(self) -> tuple[str, ...]:
        """Return the possible compute capabilities, such as ``sm_89``, ascending; empty if it builds for the machine's GPU."""
        if not self.builds_ahead:
            return ()
        names = self.module.ComputeCapability.__members__
        return tuple(sorted((f"sm_{name[2:]}" for name in names if name.startswith("SM")), key=capability_number))


def installed_versions() -> dict[str, str]:
    """Return the versions of the runtimes that are installed and can be loaded."""
    found: dict[str, str] = {}
    for runtime in PLAN_RUNTIMES:
        with suppress(EngineError):
            found[runtime] = load_api(runtime).version
    return found


def load_api(runtime: PlanRuntime) -> Api:
    """Load one of the two modules.

    Raises:
        EngineError: It is not installed, or its libraries cannot be loaded.
    """
    hint = install(runtime)
    if find_spec(MODULES[runtime]) is None:
        raise EngineError(f"{TITLES[runtime]} is not installed", hint)
    try:
        module = import_module(MODULES[runtime])
    except (ImportError, OSError, RuntimeError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise EngineError(f"{TITLES[runtime]} cannot be loaded: {first}", f"{hint}, and install a driver for CUDA 13.") from error
    ahead = hasattr(module.IBuilderConfig, "set_compute_capability")
    return Api(runtime, module, str(module.__version__), ahead, has_timings=runtime == "tensorrt")


def start(api: Api, messages: Messages, what: Literal["Builder", "OnnxParser", "Runtime"], *arguments: Any) -> Any:
    """Create one of the objects that all others come from.

    Raises:
        EngineError: The library does not start; mostly the driver is missing or too old for it.
    """
    try:
        return getattr(api.module, what)(*arguments, messages.logger)
    except TypeError as error:  # the binding's error if the library returns null
        why = messages.last_error() or "the library gives no reason"
        hint = "Update NVIDIA's driver (580 or later, see 'nvidia-smi'), or use --engine onnxruntime."
        raise EngineError(f"{api.title} {api.version} cannot be started: {why}", hint) from error


def created(api: Api, messages: Messages, thing: Any) -> Any:
    """Return an object that the runtime created.

    Raises:
        DeviceMemoryError: It is null, because there is not enough memory.
        EngineError: It is null.
    """
    if thing is None:
        raise failure(api, messages, "cannot be prepared")
    return thing


def failure(api: Api, messages: Messages, what: str, hint: str = "") -> EngineError:
    """Return the error for a call that failed, with the runtime's reason."""
    lack = messages.lack_of_memory()
    why = lack or messages.last_error()
    text = f"{api.title} {what}{f': {why}' if why else ''}"
    return DeviceMemoryError(text) if lack else EngineError(text, hint)


class Messages:
    """Collects the last errors of a runtime; nothing is printed."""

    def __init__(self, api: Api) -> None:
        trt, errors, lacks = api.module, deque[str](maxlen=MAX_MESSAGES), deque[str](maxlen=MAX_MESSAGES)
        severe = (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR)
        kept = (*severe, trt.ILogger.WARNING)

        class Logger(trt.ILogger):  # type: ignore[misc, name-defined]
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, severity: Any, message: str) -> None:
                if severity not in kept or any(noise in message for noise in _NOISE):
                    return
                if severity in severe:
                    errors.append(message)
                if _NO_MEMORY.search(message):
                    lacks.append(message)

        self._errors = errors
        self._lacks = lacks
        self.logger = Logger()
        """The logger for the runtime; it has to live as long as everything that was created with it."""

    def last_error(self) -> str:
        """Return the last error in one line; empty if there was none."""
        return _one_line(self._errors)

    def lack_of_memory(self) -> str:
        """Return the last error or warning about too little memory in one line; empty if there was none."""
        return _one_line(self._lacks)

    def clear(self) -> None:
        """Forget all messages."""
        self._errors.clear()
        self._lacks.clear()


def _one_line(messages: deque[str]) -> str:
    return " ".join(messages[-1].split())[:300] if messages else ""
