"""The two modules that build and run plans, ``tensorrt`` and ``tensorrt_rtx``: their interfaces are alike as far as we use them.

What differs: TensorRT-RTX builds for GPUs that are not there and keeps no timings; TensorRT builds for the GPU that it finds,
times kernels on it, and can make plans that later versions or other GPUs take.
"""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from vision_infer.core.errors import EngineError
from vision_infer.engine.tensorrt.names import MODULES, PLAN_RUNTIMES, TITLES, PlanRuntime
from vision_infer.engine.tensorrt.plan_file import capability_number

MAX_MESSAGES = 50
_NOISE = ("global log stream",)
"""told as fatal by TensorRT-RTX whenever it is told in Python, and meaning nothing"""


@dataclass(frozen=True, slots=True)
class Api:
    """One of the two, loaded."""

    runtime: PlanRuntime
    module: Any
    version: str
    """such as ``1.7.1.116``"""
    builds_ahead: bool
    """whether it builds for compute capabilities that are named, without a GPU"""
    keeps_timings: bool
    """whether it times kernels, and so has a use for what it found earlier"""

    @property
    def title(self) -> str:
        """Its name as people write it."""
        return TITLES[self.runtime]

    def capabilities(self) -> tuple[str, ...]:
        """The compute capabilities that may be named, such as ``sm_89``, ascending; empty where it builds for what is there."""
        if not self.builds_ahead:
            return ()
        names = self.module.ComputeCapability.__members__
        return tuple(sorted((f"sm_{name[2:]}" for name in names if name.startswith("SM")), key=capability_number))


def is_installed(runtime: PlanRuntime) -> bool:
    """Whether a runtime is there, as far as can be told without loading it."""
    return find_spec(MODULES[runtime]) is not None


def installed_versions() -> dict[str, str]:
    """The versions of the runtimes that are here and can be loaded."""
    found: dict[str, str] = {}
    for runtime in PLAN_RUNTIMES:
        if is_installed(runtime):
            with suppress(EngineError):
                found[runtime] = load_api(runtime).version
    return found


def load_api(runtime: PlanRuntime) -> Api:
    """Load one of the two.

    Raises:
        EngineError: it is not installed, or its libraries cannot be loaded.
    """
    hint = f"pip install 'vision-infer[{runtime}]'"
    if not is_installed(runtime):
        raise EngineError(f"{TITLES[runtime]} is not installed", hint)
    try:
        module = import_module(MODULES[runtime])
    except (ImportError, OSError, RuntimeError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise EngineError(f"{TITLES[runtime]} cannot be loaded: {first}", f"{hint}, beside a driver for CUDA 13") from error
    ahead = hasattr(module.IBuilderConfig, "set_compute_capability")
    return Api(runtime, module, str(module.__version__), ahead, keeps_timings=runtime == "tensorrt")


class Messages:
    """What a runtime says: kept, the last of it, and printed nowhere.

    Args:
        api: of which runtime.
    """

    def __init__(self, api: Api) -> None:
        trt, kept = api.module, deque[str](maxlen=MAX_MESSAGES)
        worst = (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR)

        class Logger(trt.ILogger):  # type: ignore[misc, name-defined]
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, severity: Any, message: str) -> None:
                if severity in worst and not any(noise in message for noise in _NOISE):
                    kept.append(message)

        self._kept = kept
        self.logger = Logger()
        """to be handed to the runtime; it has to live as long as everything that was made with it"""

    def last_error(self) -> str:
        """The last error, in a line; empty where there was none."""
        return " ".join(self._kept[-1].split())[:300] if self._kept else ""

    def clear(self) -> None:
        """Forget what was said."""
        self._kept.clear()
