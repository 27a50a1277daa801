"""The two modules that build and run plans, ``tensorrt`` and ``tensorrt_rtx``, behind one interface.

The differences: TensorRT-RTX builds for GPUs that are not in the machine, and has no timing cache. TensorRT builds for the GPU of
the machine, times kernels on it, and can build plans for later versions or other GPUs.
"""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from vision_infer.core.errors import EngineError
from vision_infer.core.packages import install
from vision_infer.engine.tensorrt.names import MODULES, PLAN_RUNTIMES, TITLES, PlanRuntime
from vision_infer.engine.tensorrt.plan_file import capability_number

MAX_MESSAGES = 50
_NOISE = ("global log stream",)
"""Messages that TensorRT-RTX logs as fatal whenever Python creates a logger, and that mean nothing."""


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


class Messages:
    """Collects the last errors of a runtime; nothing is printed."""

    def __init__(self, api: Api) -> None:
        trt, errors = api.module, deque[str](maxlen=MAX_MESSAGES)
        severe = (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR)

        class Logger(trt.ILogger):  # type: ignore[misc, name-defined]
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, severity: Any, message: str) -> None:
                if severity in severe and not any(noise in message for noise in _NOISE):
                    errors.append(message)

        self._errors = errors
        self.logger = Logger()
        """The logger for the runtime; it has to live as long as everything that was created with it."""

    def last_error(self) -> str:
        """Return the last error in one line; empty if there was none."""
        return " ".join(self._errors[-1].split())[:300] if self._errors else ""

    def clear(self) -> None:
        """Forget all errors."""
        self._errors.clear()
