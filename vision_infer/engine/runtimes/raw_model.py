"""Runs any ONNX graph unmodified, to verify an import. Frames go through :mod:`vision_infer.engine.runtimes.onnxruntime`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vision_infer.core.errors import ModelError
from vision_infer.engine.external_data import refuse_external_data_outside
from vision_infer.engine.runtime_errors import summarize_error
from vision_infer.engine.runtimes.onnxruntime import load_onnxruntime

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

    def run(self, feeds: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run once with the inputs by name; return the outputs by name.

        Raises:
            ModelError: The graph fails while it runs.
        """
        names = [output.name for output in self._session.get_outputs()]
        try:
            values = self._session.run(names, feeds)
        except Exception as error:  # as above
            count = next(iter(feeds.values())).shape[0]
            message = f"{self._where}: fails on a batch of {count}: {summarize_error(error)}"
            raise ModelError(message, "Export it again, with a dynamic batch.") from error
        return dict(zip(names, values, strict=True))
