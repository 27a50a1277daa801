"""Runs any ONNX graph unmodified, to verify an import. Frames go through :mod:`vision_infer.engine.runtimes.onnxruntime`."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vision_infer.core.errors import FixedBatchError, ModelError
from vision_infer.engine.external_data import refuse_external_data_outside
from vision_infer.engine.runtime_errors import summarize_error
from vision_infer.engine.runtimes.onnxruntime import load_onnxruntime

RUN_LIMIT_S = 120.0
"""The time limit of a run, in seconds."""
_DTYPES: dict[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(uint8)": np.uint8,
}


class RawSession:
    """An ONNX graph in ONNX Runtime, on one thread of the CPU; its external data has to be in its folder.

    Raises:
        EngineError: ONNX Runtime is not installed.
        ModelError: The file cannot be loaded: it is damaged, or the runtime does not support an operator or the operator set.
    """

    def __init__(self, path: Path) -> None:
        refuse_external_data_outside(path)
        onnxruntime = load_onnxruntime()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        self._where = path.name
        self._run_options = onnxruntime.RunOptions
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the runtime's errors have no common base class
            raise ModelError(
                f"{path.name}: ONNX Runtime cannot load it: {summarize_error(error)}",
                "Export it with known operators, opset 17 to 20.",
            ) from error
        self.inputs: dict[str, tuple[tuple[int | None, ...], type[np.generic]]] = {
            entry.name: (
                tuple(side if isinstance(side, int) else None for side in entry.shape),
                _DTYPES.get(entry.type, np.float32),
            )
            for entry in self._session.get_inputs()
        }

    def run(self, feeds: dict[str, NDArray[Any]], limit_s: float = RUN_LIMIT_S) -> dict[str, NDArray[Any]]:
        """Run once with the inputs by name; return the outputs by name.

        Args:
            feeds: The inputs.
            limit_s: The time limit, in seconds: a graph may contain a loop that does not end.

        Raises:
            ModelError: The graph fails while it runs, or takes too long.
        """
        names = [output.name for output in self._session.get_outputs()]
        options = self._run_options()
        late = threading.Timer(limit_s, lambda: setattr(options, "terminate", True))
        late.daemon = True
        late.start()
        try:
            values = self._session.run(names, feeds, options)
        except Exception as error:  # as above
            if options.terminate:
                message = f"{self._where}: one run takes more than {limit_s:g} s"
                raise ModelError(message, "Use a smaller model or input, or check its loops.") from error
            count = next(iter(feeds.values())).shape[0]
            message = f"{self._where}: fails on a batch of {count}: {summarize_error(error)}"
            raise (FixedBatchError if count > 1 else ModelError)(message, "Export it again, with a dynamic batch.") from error
        finally:
            late.cancel()
        return dict(zip(names, values, strict=True))
