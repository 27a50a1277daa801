"""NVML of a machine with the GPUs of ``FAKE_CUDA_DEVICES``, in the opposite order; it fails on request."""

from __future__ import annotations

import json
import os
import sys
from types import SimpleNamespace
from typing import Any


class Nvml:
    """The module ``pynvml``; a handle is the UUID of a GPU or MIG instance.

    Args:
        devices: As the stand-in for CUDA's driver reads them.
        fails: The status of ``nvmlInit``.
    """

    NVML_ERROR_LIBRARY_NOT_FOUND, NVML_ERROR_NO_PERMISSION, NVML_ERROR_DRIVER_NOT_LOADED, NVML_ERROR_GPU_IS_LOST = 12, 4, 9, 15

    class NVMLError(Exception):
        def __init__(self, value: int) -> None:
            super().__init__(f"error {value}")
            self.value = value

    def __init__(self, devices: str, fails: int = 0) -> None:
        self.fails, self.over = fails, False
        facts = [device.split("|") for device in devices.split(";") if device]
        self.by_uuid = {uuid: (name, free, total, capability) for name, uuid, free, total, capability in facts}

    def nvmlInit(self) -> None:  # noqa: N802 - NVML's names
        if self.fails:
            raise self.NVMLError(self.fails)

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.over = True

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return len(self.by_uuid)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:  # noqa: N802
        return list(self.by_uuid)[-1 - index]

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802
        if uuid not in self.by_uuid:
            raise self.NVMLError(6)
        return uuid

    def nvmlDeviceGetDeviceHandleFromMigDeviceHandle(self, uuid: str) -> str:  # noqa: N802
        if not uuid.startswith("MIG-"):
            raise self.NVMLError(3)
        return f"parent of {uuid}"

    def nvmlDeviceGetMemoryInfo(self, uuid: str) -> Any:  # noqa: N802
        _, free, total, _ = self.by_uuid[uuid]
        return SimpleNamespace(total=int(total) * 10**6, free=int(free) * 10**6)

    def nvmlDeviceGetCudaComputeCapability(self, uuid: str) -> tuple[int, ...]:  # noqa: N802
        if uuid.startswith("MIG-"):
            raise self.NVMLError(3)
        return tuple(map(int, self.by_uuid[uuid.removeprefix("parent of ")][3].split(".")))

    def nvmlDeviceGetMigMode(self, _: str) -> Any:  # noqa: N802
        raise self.NVMLError(3)

    def nvmlDeviceGetName(self, uuid: str) -> bytes:  # noqa: N802
        return self.by_uuid[uuid][0].encode()

    def nvmlSystemGetDriverVersion(self) -> str:  # noqa: N802
        return "580.1"


def print_findings() -> None:
    """Print what ``doctor`` reports about the GPUs."""
    sys.modules["pynvml"] = Nvml(os.environ["FAKE_CUDA_DEVICES"])  # type: ignore[assignment]
    from vision_infer.cli.checks import check_gpus

    found, usable = check_gpus()
    print(json.dumps([usable, *[f"{one.severity}: {one.text}" for one in found]]))
