"""Plans in the engine cache: built once, found again, built again when damaged or stale, and never incomplete."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.engine.cache_keys import no_news
from tests.engine.tensorrt.build_process import COMPILES
from tests.engine.tensorrt.networks import OPTIONS, SM_89, Name, Precision, api, compiled, graph
from tests.support.disks import small_disk
from tests.support.media import ROOT
from vision_infer.core.errors import EngineError, UsageError
from vision_infer.engine.store.cache import EngineCache
from vision_infer.engine.tensorrt import compile as compile_module
from vision_infer.engine.tensorrt.build_progress import BuildProgress
from vision_infer.engine.tensorrt.cached_plans import list_cached_plans
from vision_infer.engine.tensorrt.checked_file import read_checked, write_checked
from vision_infer.engine.tensorrt.compile import PlanOptions, compile_plan
from vision_infer.engine.tensorrt.kernels import kernels_file
from vision_infer.engine.tensorrt.plan_file import PlanFile
from vision_infer.engine.tensorrt.plans import PlanJob, build_plan, find_plan, graph_of, open_plan
from vision_infer.engine.tensorrt.target import GpuTarget, LocalGpu

RTX_4090 = LocalGpu("NVIDIA GeForce RTX 4090", "sm_89")
RTX_5090 = LocalGpu("NVIDIA GeForce RTX 5090", "sm_120")


@pytest.fixture
def cache(tmp_path: Path) -> EngineCache:
    return EngineCache(tmp_path / "engines")


def job(name: Name = "embedder", precision: Precision = "fp16", options: PlanOptions = OPTIONS) -> PlanJob:
    return PlanJob(graph(name, precision), api(), SM_89, options)


def kept(cache: EngineCache, one: PlanJob) -> PlanFile:
    """Store a plan that was built from another graph: the tests do not run it."""
    built = compiled("embedder", "fp16")[0].plan
    plan = replace(
        built,
        runtime_version=one.api.version,
        compute_capabilities=one.target.capabilities,
        batch_sizes=one.options.batch_sizes,
        version_compatible=one.options.version_compatible,
    )
    cache.store(one.key(), plan.to_bytes())
    return plan


def test_a_plan_is_built_once_and_found_again(cache: EngineCache) -> None:
    said: list[str] = []
    reports: list[BuildProgress] = []
    plan, passport = build_plan(job(), cache, said.append, reports.append)
    assert said == ["building tensorrt-rtx-cuda-fp16 for smallest-embedder (not cached yet)"]
    assert reports[-1].fraction == 1
    assert (passport.engine, passport.device.kind, passport.device.name) == ("tensorrt-rtx-cuda-fp16", "cuda", "sm_89")
    assert passport.precision["convolutions"] == "3 fp16"
    assert passport.build_seconds
    again = build_plan(job(), cache, no_news, lambda _: pytest.fail("it was built again"))
    assert again == (plan, passport)
    (entry,) = cache.entries()
    assert entry.nbytes > len(plan.plan)


def test_a_damaged_plan_is_built_again(cache: EngineCache) -> None:
    plan, _ = build_plan(job(), cache, lambda _: None)
    (entry,) = cache.entries()
    content = bytearray((entry.folder / "engine.bin").read_bytes())
    content[-1] ^= 1
    (entry.folder / "engine.bin").write_bytes(content)
    said: list[str] = []
    assert build_plan(job(), cache, said.append)[0].graph_sha256 == plan.graph_sha256
    assert said == ["building tensorrt-rtx-cuda-fp16 for smallest-embedder (the cached engine is damaged)"]


def test_an_invalid_plan_is_built_again(cache: EngineCache) -> None:
    cache.store(job().key(), b"something else, with the right checksum")
    said: list[str] = []
    build_plan(job(), cache, said.append)
    assert "is not a plan file of vision-infer" in said[0]
    assert "not cached yet" in said[1]
    build_plan(job(), cache, no_news)


def test_a_lost_passport_does_not_cause_a_build(cache: EngineCache) -> None:
    build_plan(job(), cache, lambda _: None)
    (entry,) = cache.entries()
    (entry.folder / "passport.json").write_text("{")
    assert build_plan(job(), cache, no_news)[1].engine == "tensorrt-rtx-cuda-fp16"


def test_another_version_of_the_runtime_causes_a_build(cache: EngineCache) -> None:
    old = replace(job(), api=replace(api(), version="1.6.0.1"))
    kept(cache, old)
    (listed,) = list_cached_plans(cache, graph("embedder", "fp16"))
    assert listed.not_here == f"built by tensorrt-rtx 1.6.0.1, installed is {api().version}"
    said: list[str] = []
    build_plan(job(), cache, said.append)
    assert said == [f"building tensorrt-rtx-cuda-fp16 for smallest-embedder (runtime version is {api().version}, was 1.6.0.1)"]


def test_a_suitable_plan_is_found(cache: EngineCache) -> None:
    both = replace(job(options=PlanOptions((1, 2, 4, 8))), target=GpuTarget(("sm_86", "sm_89")))
    plan = kept(cache, both)
    wanted = job(options=PlanOptions((1, 4)))
    assert find_plan(wanted, RTX_4090, cache, no_news) == plan
    assert open_plan(wanted, RTX_4090, cache, no_news) == plan
    assert find_plan(wanted, RTX_5090, cache, no_news) is None
    assert find_plan(job(options=PlanOptions((1, 16))), RTX_4090, cache, no_news) is None
    assert find_plan(job(precision="fp32"), RTX_4090, cache, no_news) is None
    assert find_plan(replace(wanted, api=replace(api(), version="1.8.0")), RTX_4090, cache, no_news) is None


def test_a_plan_for_larger_batches_only_is_not_suitable(cache: EngineCache) -> None:
    kept(cache, job(options=PlanOptions((4, 8))))
    assert find_plan(job(options=PlanOptions((1, 8))), RTX_4090, cache, no_news) is None


def test_a_version_compatible_plan_is_suitable_for_later_versions(cache: EngineCache) -> None:
    old = replace(api(), runtime="tensorrt", version="11.0.0", builds_ahead=False)
    one = PlanJob(graph("embedder", "fp16"), old, SM_89, PlanOptions((1, 2), version_compatible=True))
    plan = replace(kept(cache, one), runtime="tensorrt")
    cache.store(one.key(), plan.to_bytes())
    assert find_plan(replace(one, api=replace(old, version="11.2.0")), RTX_4090, cache, no_news) == plan
    assert find_plan(replace(one, api=replace(old, version="12.0.0")), RTX_4090, cache, no_news) is None


def test_a_plan_for_exactly_this_version_is_preferred(cache: EngineCache) -> None:
    """A version-compatible one is slower, even if it was used last."""
    trt = replace(api(), runtime="tensorrt", version="11.2.0", builds_ahead=False)
    plain, compatible = (
        PlanJob(graph("embedder", "fp16"), trt, SM_89, PlanOptions((1, 2), version_compatible=value)) for value in (False, True)
    )
    for one in (plain, compatible):
        cache.store(one.key(), replace(kept(cache, one), runtime="tensorrt").to_bytes())
    found = find_plan(plain, RTX_4090, cache, no_news)
    assert found is not None
    assert not found.version_compatible
    cache.remove(plain.key())
    found = find_plan(plain, RTX_4090, cache, no_news)
    assert found is not None
    assert found.version_compatible


def test_a_plan_that_was_built_in_another_way_is_not_used(cache: EngineCache, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as earlier:
        earlier.setattr(compile_module, "BUILD_VERSION", compile_module.BUILD_VERSION - 1)
        kept(cache, job())
        assert find_plan(job(), RTX_4090, cache, no_news) is not None
    assert find_plan(job(), RTX_4090, cache, no_news) is None
    (listed,) = list_cached_plans(cache, graph("embedder", "fp16"))
    assert listed.not_here == "built by another version of vision-infer, in another way"
    said: list[str] = []
    build_plan(job(), cache, said.append)
    version = compile_module.BUILD_VERSION
    assert f"build version {version}, was batches 1 2 4, build version {version - 1})" in said[0]


def test_a_plan_in_tf32_has_its_own_name_key_and_passport(cache: EngineCache) -> None:
    exact, rounded = (job(precision="fp32", options=PlanOptions((1, 2), tf32=value)) for value in (False, True))
    plan, passport = build_plan(rounded, cache, lambda _: None)
    assert (plan.engine, passport.engine, passport.compute) == ("tensorrt-rtx-cuda-tf32", "tensorrt-rtx-cuda-tf32", "tf32")
    assert (plan.precision, plan.tf32) == ("fp32", True)
    assert find_plan(exact, RTX_4090, cache, no_news) is None
    assert find_plan(rounded, RTX_4090, cache, no_news) == plan
    with pytest.raises(UsageError, match="--tf32 is not valid for fp16"):
        job(options=PlanOptions((1, 2), tf32=True))


def test_a_plan_knows_where_it_is_cached(cache: EngineCache) -> None:
    built, found = (build_plan(job(), cache, lambda _: None)[0] for _ in range(2))
    assert built.file == found.file == cache.folder / job().key().digest() / "engine.bin"
    assert kernels_file(built, "NVIDIA L4") != kernels_file(built, "NVIDIA L40")
    kernels = kernels_file(built, "NVIDIA L4")
    assert kernels is not None
    write_checked(kernels, b"kernels")
    passport = cache.passport(job().key())
    assert passport is not None
    cache.store_passport(job().key(), passport.to_json())
    assert read_checked(kernels) == b"kernels"  # a new passport does not remove them, a new plan does
    cache.store(job().key(), built.to_bytes())
    assert read_checked(kernels) == b""


def test_cached_plans_are_listed(cache: EngineCache) -> None:
    kept(cache, job())
    kept(cache, replace(job("nanodet"), target=GpuTarget(("sm_120",))))
    (one,) = list_cached_plans(cache, graph("embedder", "fp16"))
    assert (one.entry.key.device, one.graph, one.passport) == ("sm_89", "embedder.fp16.onnx", None)
    assert one.not_here
    cache.store(replace(job().key(), graph_sha256="0" * 64), b"of an earlier graph")
    assert "the graph has changed" in {one.not_here for one in list_cached_plans(cache, graph("embedder", "fp16"))}


def test_weights_in_another_file_are_found_and_part_of_the_key(cache: EngineCache, tmp_path: Path) -> None:
    """The graph for wide images has its weights in the file of the other."""
    bundled = ROOT / "models" / "nanodet-416"
    wide, square = (Path(shutil.copy(bundled / name, tmp_path)) for name in ("model-256x416.onnx", "model.onnx"))
    one = PlanJob(wide, api(), SM_89, PlanOptions((1, 2)))
    plan, _ = build_plan(one, cache, lambda _: None)
    assert (plan.card.input.width, plan.card.input.height) == (416, 256)
    assert len(plan.plan) > 5_000_000, "with the weights of the other file, and not with zeros"
    (listed,) = list_cached_plans(cache, square)
    assert listed.graph == "model-256x416.onnx"
    content = bytearray(square.read_bytes())
    content[len(content) // 2] ^= 1
    square.write_bytes(content)
    assert one.key().graph_sha256 != listed.entry.key.graph_sha256


def test_a_missing_precision_names_the_command_that_makes_it(tmp_path: Path) -> None:
    bundled = ROOT / "models" / "nanodet-416" / "model.onnx"
    wanted: dict[Precision, str] = {"fp32": "model.onnx", "fp16": "model.fp16.onnx", "int8": "model.int8-tensorrt.onnx"}
    for one, name in wanted.items():
        assert graph_of(bundled, "nanodet-416", one).name == name
    clock = ROOT / "models" / "clock" / "model.onnx"
    with pytest.raises(EngineError, match="with: vision-infer model quantize clock --precision fp16 --data VIDEO"):
        graph_of(clock, "clock", "fp16")
    for name, precision in (("model.onnx", "fp32"), ("model.int8-tensorrt.onnx", "int8"), ("model.fp16.onnx", "fp16")):
        (tmp_path / name).write_bytes(graph("nanodet", precision).read_bytes())
    (tmp_path / "model.int8.onnx").write_bytes((bundled.parent / "model.int8.onnx").read_bytes())
    assert graph_of(tmp_path / "model.onnx", "mine", "int8") == tmp_path / "model.int8-tensorrt.onnx"


def test_an_unsupported_form_names_the_operator_and_the_command(cache: EngineCache) -> None:
    wrong = replace(job(), graph=ROOT / "models" / "nanodet-416" / "model.int8.onnx")
    with pytest.raises(EngineError, match="does not support the operator DequantizeLinear") as caught:
        build_plan(wrong, cache, lambda _: None)
    assert "model quantize MODEL --form tensorrt" in caught.value.hint
    assert "\n" not in str(caught.value)
    assert "/_src/" not in str(caught.value)
    assert cache.entries() == []


def test_a_full_disk_keeps_the_cached_plan() -> None:
    small = compiled("embedder", "fp16")[0].plan
    with small_disk(4096 * (len(small.plan) // 4096 + 60)) as disk:
        cache = EngineCache(disk / "engines")
        build_plan(job(), cache, lambda _: None)
        with pytest.raises(EngineError, match="cannot be stored: No space left"):
            build_plan(job(precision="fp32"), cache, lambda _: None)
        build_plan(job(), cache, no_news)
        assert len(cache.entries()) == 1
        assert list(cache.folder.glob("*.tmp-*")) == []
        said: list[str] = []
        plan = open_plan(job(precision="fp32"), RTX_4090, cache, said.append)
        assert plan.precision == "fp32"
        assert said[-1].endswith("the engine runs without it")


def builder(cache: EngineCache, one: PlanJob) -> subprocess.Popen[str]:
    """Run the command in a child process."""
    words = ["--runtime", "tensorrt-rtx", "--for", "sm_89", "--batch", "4", "--engine-dir", str(cache.folder)]
    command = [sys.executable, "-m", "tests.engine.tensorrt.build_process", str(one.graph), *words]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_until_it_compiles(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert COMPILES in (line.strip() for line in process.stdout), process.communicate()[1]


def test_a_killed_build_leaves_the_cache_intact(cache: EngineCache) -> None:
    one = job("detector", "fp32")
    other = kept(cache, job())
    with builder(cache, one) as process:
        wait_until_it_compiles(process)
        process.kill()
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert [entry.key for entry in cache.entries()] == [job().key()]
    assert build_plan(job(), cache, no_news)[0] == other
    with cache.building(one.key(), lambda text: None) as content:  # the lock ended with the process
        assert content is None
    cache.prune(10**12)
    assert {path.name for path in cache.folder.iterdir()} == {job().key().digest()}


def test_ctrl_c_ends_a_build_at_once(cache: EngineCache) -> None:
    one = job("detector", "fp32")
    with builder(cache, one) as process:
        wait_until_it_compiles(process)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "done" not in output
    assert "Traceback" not in errors
    assert cache.entries() == []


def test_one_of_two_simultaneous_builders_waits_for_the_other(cache: EngineCache) -> None:
    one = job("detector", "fp32")
    with builder(cache, one) as first:
        wait_until_it_compiles(first)
        with builder(cache, one) as second:
            listed = [process.communicate(timeout=100) for process in (first, second)]
    assert [process.returncode for process in (first, second)] == [0, 0]
    assert "done" in listed[0][0]
    waited = "another process is building tensorrt-rtx-cuda-fp32 for smallest-detector: waiting for it"
    assert listed[1][1] in (f"{waited}\n", "")  # the second may have started after the first was done
    assert "Building engine" not in listed[1][0]
    assert listed[0][0].splitlines()[-1] == listed[1][0].splitlines()[-1]
    assert len(cache.entries()) == 1


def test_a_plan_is_not_built_while_an_engine_is_chosen(cache: EngineCache) -> None:
    wanted = job(options=PlanOptions((1, 4)))
    with pytest.raises(EngineError, match=r"no complete plan of embedder.fp16.onnx for NVIDIA GeForce RTX 4090"):
        open_plan(wanted, RTX_4090, cache, no_news, may_build=False)
    plan = kept(cache, wanted)
    assert open_plan(wanted, RTX_4090, cache, no_news, may_build=False) == plan


def test_a_build_next_to_other_engines_has_a_bounded_workspace(cache: EngineCache) -> None:
    open_plan(job(), RTX_4090, cache, lambda _: None)
    (entry,) = cache.entries()
    assert "workspace 1000 MB" in entry.key.profile


@pytest.mark.parametrize("size", ["model", "model-256x416"])
@pytest.mark.parametrize("form", ["fp16", "int8-tensorrt"])
def test_the_bundled_graphs_for_gpus_are_built(size: str, form: str) -> None:
    """They have most of their weights in the files of the other graphs."""
    path = ROOT / "models" / "nanodet-416" / f"{size}.{form}.onnx"
    compiled_plan = compile_plan(path, api(), SM_89, OPTIONS)
    assert form.startswith(compiled_plan.plan.precision)
    assert len(compiled_plan.plan.plan) > 3_500_000, "with the weights of the other files, and not with zeros"
