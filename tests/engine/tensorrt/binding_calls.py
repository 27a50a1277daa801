"""Runs the package's own code against the signatures of a real binding of TensorRT; a process does nothing else.

python -m tests.engine.tensorrt.binding_calls tensorrt|tensorrt-rtx GRAPH

For TensorRT the loader has to find libraries with its names; stubs are enough, see ``test_binding.py``.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import pytest

from tests.engine.host_device import HostDevice
from tests.engine.tensorrt.strict_binding import StrictModule, StrictObject
from vision_infer.core.errors import EngineError
from vision_infer.engine.gpu.device_engine import DeviceEngine
from vision_infer.engine.graph_facts import read_graph_facts
from vision_infer.engine.tensorrt.api import Api, load_api
from vision_infer.engine.tensorrt.compile import PlanOptions, compile_plan
from vision_infer.engine.tensorrt.names import PlanRuntime
from vision_infer.engine.tensorrt.network import parse_network
from vision_infer.engine.tensorrt.plan_engine import TensorRtModel
from vision_infer.engine.tensorrt.plan_file import PlanFile
from vision_infer.engine.tensorrt.target import GpuTarget

BUILD_NULLS = {
    "OnnxParser.parse_from_file": False,
    "Builder.create_network": None,
    "Builder.create_builder_config": None,
    "Builder.create_optimization_profile": None,
    "Builder.build_serialized_network": None,
}
"""The calls of a build that may fail, and what they return then."""
RUN_NULLS = {
    "Runtime.deserialize_cuda_engine": None,
    "ICudaEngine.create_runtime_config": None,
    "ICudaEngine.create_execution_context": None,
    "IExecutionContext.set_optimization_profile_async": False,
    "IExecutionContext.set_input_shape": False,
    "IExecutionContext.set_tensor_address": False,
    "IExecutionContext.execute_async_v3": False,
}
"""The same when a plan is loaded and run."""


class NumberedDevice(HostDevice):
    """A device whose streams are numbers, like those of CUDA."""

    def make_stream(self) -> Any:
        """Create a stream that can be converted to a number."""
        stream = super().make_stream()
        type(stream).__int__ = lambda one: id(one)  # type: ignore[attr-defined]
        return stream


def strict(api: Api, changed: Mapping[str, Any]) -> Api:
    """Return the binding, strict, with a network that looks like the smallest detector."""
    trt = api.module
    module = StrictModule(trt, {})

    def tensor(name: str, dtype: str, *shape: int) -> StrictObject:
        return module.make("ITensor", name=name, dtype=getattr(trt.DataType, dtype), shape=shape)

    images = tensor("images", "UINT8", -1, 32, 32, 3)
    outputs = (tensor("boxes", "FLOAT", -1, 4, 4), tensor("scores", "FLOAT", -1, 4), tensor("class_ids", "INT32", -1, 4))
    layer = module.make(
        "ILayer",
        type=trt.LayerType.CONVOLUTION,
        num_inputs=1,
        num_outputs=1,
        get_input=lambda _: images,
        get_output=lambda _: outputs[0],
    )
    module.values.update(
        {
            "INetworkDefinition.num_inputs": 1,
            "INetworkDefinition.get_input": lambda _: images,
            "INetworkDefinition.num_outputs": len(outputs),
            "INetworkDefinition.get_output": lambda index: outputs[index],
            "INetworkDefinition.num_layers": 1,
            "INetworkDefinition.get_layer": lambda _: layer,
            "OnnxParser.num_errors": 1,
            "OnnxParser.get_error": lambda _: module.make("ParserError"),
            "ParserError.node_operator": "Unheard",
            "ParserError.node_name": "node",
            "ParserError.desc": "In node 0: no importer",
            "IBuilderConfig.add_optimization_profile": 0,
            "ICudaEngine.device_memory_size_v2": 1000,
            "ICudaEngine.num_optimization_profiles": 2,
            "ICudaEngine.get_tensor_profile_shape": lambda _, index: [(1 + index, 32, 32, 3)] * 2 + [(1 + 7 * index, 32, 32, 3)],
            "IExecutionContext.active_optimization_profile": 7,
            **changed,
        }
    )
    return replace(api, module=module)


def build(api: Api, graph: Path, options: PlanOptions) -> PlanFile:
    """Build the plan with all options of the runtime."""
    if not api.builds_ahead:
        options = replace(options, version_compatible=True, hardware_compatible=True)
    return compile_plan(graph, api, GpuTarget(("sm_86", "sm_89")), options, timings=b"of an earlier build").plan


def run(api: Api, plan: PlanFile, kernels: Path) -> None:
    """Load a plan, and run it with and without recording."""
    device = NumberedDevice()
    model = TensorRtModel(plan, api, device, kernels)
    with DeviceEngine(plan.engine, plan.card, model, device, (1, 2, 8), 1) as engine:
        engine.warm_up()
        engine.collect(engine.submit(engine.lend(2)))
    assert (device.used, device.things) == (0, 0)


def refused(call: Any, *arguments: Any) -> str:
    """Return the message of the error of a call."""
    with pytest.raises(EngineError) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
    return caught.value.message


def check(runtime: PlanRuntime, graph: Path) -> None:
    """Check the names, arguments and null results of all calls."""
    if runtime == "tensorrt":
        sys.modules["tensorrt"] = import_module("tensorrt_bindings")  # the package "tensorrt" only adds the libraries
    api = load_api(runtime)
    kernels = graph.with_name("kernels.bin")
    plain, all_options = PlanOptions((1, 2, 8)), PlanOptions((1, 2, 8), 10**9, tf32=True)
    good = strict(api, {})
    build(good, graph, plain)
    plan = build(good, graph, all_options)
    assert plan.plan == b"serialized"
    run(good, plan, kernels)
    run(good, plan, kernels)  # with stored kernels
    used = good.module.used
    for call, null in BUILD_NULLS.items():
        assert call in used, call
        print(call, refused(build, strict(api, {call: null}), graph, all_options))
    for call, null in RUN_NULLS.items():
        assert call in used, call
        print(call, refused(run, strict(api, {call: null}), plan, kernels))
    for values in (
        {"IBuilderConfig.create_timing_cache": lambda timings: None if timings else good.module.make("ITimingCache")},
        {"IBuilderConfig.set_timing_cache": False},
        {"IRuntimeConfig.create_runtime_cache": None},
        {"IRuntimeCache.deserialize": False},
    ):
        found = strict(api, cast("Mapping[str, Any]", values))
        run(found, build(found, graph, all_options), kernels)
        used |= found.module.used
    if runtime == "tensorrt":  # the stubs return null
        card = read_graph_facts(graph).card
        messages = [refused(parse_network, api, graph, card), refused(TensorRtModel, plan, api, NumberedDevice())]
        for message in messages:
            assert message.startswith(f"TensorRT {api.version} cannot be started: "), message
    print(f"{runtime} {api.version}: {len(used)} names")


if __name__ == "__main__":
    check(cast(PlanRuntime, sys.argv[1]), Path(sys.argv[2]))
