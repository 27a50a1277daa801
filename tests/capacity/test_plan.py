"""Plans from benchmarks with known figures."""

from __future__ import annotations

import datetime
import itertools
from collections.abc import Sequence
from typing import Any

import pytest

from tests.capacity.benches import CPU, MACHINE, SETTINGS, bench, engine_row, run_row
from vision_infer.capacity import calibration
from vision_infer.capacity.answer import CapacityAnswer, MeasuredMachine, answer_of
from vision_infer.capacity.calibration import corrected_load
from vision_infer.capacity.costs import engines_of, load_of
from vision_infer.capacity.devices import PublishedDevice, PublishedFigure
from vision_infer.capacity.need import Need
from vision_infer.capacity.plan import MachinePlan, bound_of, plan_machine
from vision_infer.capacity.plan_page import plan_page
from vision_infer.capacity.report import BenchReport
from vision_infer.core.errors import UsageError

HOME = "this machine"


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    """A short simulation is enough, because these benchmarks contain little randomness."""
    monkeypatch.setattr(calibration, "SIM_S", 1.5)
    monkeypatch.setattr(calibration, "SIM_SEEDS", 1)


GPU = "tensorrt-cuda-fp16"


def need(**changed: Any) -> Need:
    return Need.model_validate({"model": "net", "cameras": 12, **changed})


def planned(wanted: Need, report: BenchReport | None = None) -> MachinePlan:
    return plan_machine(MeasuredMachine(HOME, report or bench()), wanted)


def best(wanted: Need, report: BenchReport | None = None) -> CapacityAnswer:
    answer = planned(wanted, report).best
    assert answer is not None
    return answer


def test_tiles_cost_one_inference_each() -> None:
    whole, tiled = best(need()), best(need(tiles="2x3"))
    assert tiled.costs.slots == 6
    # 15 frames decoded at 4.5 ms, and per result 6 tiles at 20 ms and some conversion.
    assert tiled.most == pytest.approx(0.85 * 4 / (0.0675 + 10 * 6 * 0.0215), abs=1)
    assert 3.5 < whole.most / tiled.most < 6.5
    assert tiled.measured is None, "the benchmark ran no tiles"
    assert "6 tiles per frame" in need(tiles="2x3").summary()
    with pytest.raises(UsageError, match="larger than the image"):
        planned(need(tiles=4000))


def test_the_number_of_machines_follows_from_the_cpu_time() -> None:
    answer = best(need(prices={HOME: 0.1}, detections_per_frame=2))
    # Of a second of four cores: 15 frames decoded at 4.5 ms, 10 results at 22.5 ms each take 0.29 cores; 85% are to be used.
    assert answer.most == pytest.approx(0.85 * 4 / 0.2925, abs=1)
    assert (answer.devices, answer.binding, answer.batch) == (2, "compute", 1)
    assert answer.each == 6
    assert answer.outcome.cpu == pytest.approx(6 * 0.2925 / 4, rel=0.05)
    assert answer.outcome.age_p99_ms < 200
    assert answer.money is not None
    assert answer.money.month == pytest.approx(2 * 0.1 * 730)
    assert answer.money.stream_month == pytest.approx(2 * 0.1 * 730 / 12)
    assert answer.money.per_1000_frames == pytest.approx(2 * 0.1 / (12 * 10 * 3600) * 1000)
    assert answer.money.per_1000_detections == pytest.approx(answer.money.per_1000_frames / 2)


def test_without_a_price_there_is_no_cost() -> None:
    assert best(need()).money is None
    page = plan_page(need(), [planned(need())], [])
    assert "unknown; set `--price 'this machine=0.50'`" in page
    with pytest.raises(ValueError, match="the price of this machine is 0; leave it out"):
        need(prices={HOME: 0})


@pytest.mark.parametrize(("margin", "fewer"), [(0.15, 0), (0.5, 4)])
def test_the_margin_is_kept_free(margin: float, fewer: int) -> None:
    answer = best(need(margin=margin))
    assert answer.outcome.cpu <= 1 - margin
    assert answer.most <= 11 - fewer


def test_an_impossible_target_names_the_nearest_one() -> None:
    wanted = need(target={"fps": 10, "age_ms": 15})
    answer = best(wanted)
    assert (answer.most, answer.devices) == (0, None)
    assert answer.nearest.startswith("99% of a single camera's results are delivered within 2")
    page = plan_page(wanted, [planned(wanted)], [])
    assert "**No measured device meets the target.** The nearest on this machine: 99% of a single camera's" in page


def test_a_model_that_is_too_slow_names_the_possible_rate() -> None:
    slow = bench(engines=(engine_row(ms=250.0, in_flight=1),), pipeline=())
    answer = best(need(target={"fps": 10, "age_ms": 2000}), slow)
    assert answer.most == 0
    assert answer.nearest.startswith("one camera at ")
    assert "results/s is possible, within " in answer.nearest


def test_memory_or_network_can_be_the_bottleneck() -> None:
    small = MACHINE.model_copy(update={"memory_bytes": 500_000_000})
    answer = best(need(), bench(machine=small))
    assert answer.binding == "memory"
    assert answer.most < 7
    assert answer.memory.measured
    answer = best(need(network_mbit_s=20))
    assert (answer.binding, answer.most) == ("network", 4)


def test_decoding_can_be_the_bottleneck() -> None:
    answer = best(need(target={"fps": 1}, video={"fps": 60}))
    assert answer.binding == "decode"


def test_an_engine_with_unknown_or_large_loss_is_used_only_on_request() -> None:
    report = bench(
        engines=(
            engine_row(),
            engine_row("onnxruntime-cpu-int8", ms=8.0, loss=0.9),
            engine_row("openvino-cpu-bf16", ms=5.0, loss=None),
        )
    )
    assert best(need(), report).engine == "onnxruntime-cpu-int8"
    assert best(need(loss_points=0.5), report).engine == "onnxruntime-cpu-fp32"
    assert best(need(precision="bf16"), report).engine == "openvino-cpu-bf16"
    assert best(need(runtime="openvino", precision="bf16"), report).engine == "openvino-cpu-bf16"
    with pytest.raises(UsageError, match=r"no engine of net qualifies .*measured: onnxruntime-cpu-fp32, .*\. Use another"):
        planned(need(runtime="tensorrt"), report)


def test_other_video_is_scaled_or_rejected() -> None:
    other = planned(need(video={"width": 1280, "height": 720}))
    assert other.best is not None
    assert other.best.most > best(need()).most
    assert any("scaled from the nearest" in note for note in other.notes)
    with pytest.raises(UsageError, match=r"no hevc video. Run: vision-infer bench --codec hevc"):
        planned(need(video={"codec": "hevc"}))


def test_alternatives_are_estimated() -> None:
    report = bench(engines=(engine_row(), engine_row("openvino-cpu-int8", ms=8.0, loss=3.0)))
    small = bench(settings=SETTINGS.model_copy(update={"model": "tiny"}), engines=(engine_row(ms=4.0),))
    wanted = need(what_if={"gate_saves": 0.6, "models": ["tiny", "unknown"]})
    plan = plan_machine(MeasuredMachine(HOME, report, (report, small)), wanted)
    assert plan.best is not None
    found = {one.what: one for one in plan.what_if}
    assert list(found) == [
        "5 results/s",
        "the substream, 640×360",
        "int8 (openvino-cpu-int8, loss of up to 3 points)",
        "the model tiny",
        "the model unknown",
        "a motion gate that skips 60% of the frames",
    ]
    assert all(one.answer.most > plan.best.most for one in plan.what_if if one.answer is not None)
    assert found["the model unknown"].why_not == "not measured; run: vision-infer bench --model unknown"


def test_a_measured_gpu_is_compared_and_uses_larger_batches() -> None:
    rows = tuple(engine_row(GPU, batch, ms, None, 2) for batch, ms in ((1, 4.0), (8, 8.0)))
    report = bench(engines=rows, pipeline=())
    wanted = need(precision="fp16", cameras=100, prices={"gpu": 1.0})
    gpu = plan_machine(MeasuredMachine("gpu", report), wanted)
    assert gpu.best is not None
    assert (gpu.best.batch, gpu.best.costs.accelerator) == (8, True)
    assert any("an assumption" in note for note in gpu.notes)
    page = plan_page(wanted, [gpu, planned(need())], [])
    assert "**CPU or GPU:** a CPU supports" in page
    assert "| accelerator: compute and copy |" in page


def test_published_figures_are_bounds_and_not_estimates() -> None:
    source = {"source": "https://example.org/sheet", "read": datetime.date(2026, 1, 2)}
    figure = PublishedFigure.model_validate(
        {"what": "decode", "fps": 900, "codec": "h264", "width": 1920, "height": 1080, **source}
    )
    device = PublishedDevice(name="card", kind="gpu", codecs=("h264",), published=(figure,))
    bound = bound_of(device, need())
    assert bound.cameras == 60
    assert bound.explanation == "published, https://example.org/sheet, read 2026-01-02"
    assert bound_of(device, need(video={"codec": "hevc"})).explanation == "it does not decode hevc"
    assert bound_of(PublishedDevice(name="other", kind="gpu"), need()).cameras is None
    page = plan_page(need(), [planned(need())], [bound])
    assert "| card |  | 60, by decoding alone | published, https://example.org/sheet" in page
    assert "not estimates" in page


def test_running_streams_adds_to_the_separate_measurements() -> None:
    load = load_of(bench())
    assert load.stream_ms == pytest.approx(0.5)
    assert (load.rest_ms, load.inference, load.alone) == (0.5, 1.0, 1.0)
    assert load.delay_ms == pytest.approx(27.5 - 27.0)
    row = bench().decode[0]
    keyed = bench(
        decode=(row.model_copy(update={"pattern": (3.0, *(0.5,) * 4)}),), pipeline=(run_row(1, age_p50_ms=25.5), run_row(8))
    )
    assert load_of(keyed).delay_ms == pytest.approx(25.5 - (27.0 - 4.0 * 0.5)), "the median frame is not a key frame"
    disturbed = bench(pipeline=(run_row(1), run_row(8), run_row(12, other_cores=3.0, inference_ms=90.0)))
    assert load_of(disturbed) == load, "a run that others disturbed does not count"
    faster = bench(pipeline=(run_row(1, inference_ms=15.0), run_row(8)))
    assert load_of(faster).alone == pytest.approx(22 / 15)


def test_the_cost_of_a_stream_is_the_median_of_several_runs() -> None:
    runs = (run_row(1), run_row(12), run_row(13, inference_ms=30.0), run_row(14, inference_ms=23.0))
    assert load_of(bench(pipeline=runs)).inference == pytest.approx(23 / 22)


def test_a_benchmark_of_another_input_names_the_one_to_run() -> None:
    wide = bench(settings=SETTINGS.model_copy(update={"inputs": ((416, 416), (416, 256))}))
    assert not any("another input" in note for note in planned(need(), wide).notes)
    portrait = planned(need(video={"width": 1080, "height": 1920}), wide)
    assert any("vision-infer bench --size 1080x1920" in note for note in portrait.notes)


def test_engines_are_ordered_by_the_cost_per_image() -> None:
    report = bench(engines=(engine_row(ms=20.0), engine_row("openvino-cpu-fp32", ms=12.0)))
    assert [one.name for one in engines_of(report, need())] == ["openvino-cpu-fp32", "onnxruntime-cpu-fp32"]


def test_warnings_follow_the_estimate() -> None:
    disturbed = bench(other_cores=3.0)
    assert "**Warning:** during the benchmark, other programs used 3.0 of 4 cores" in plan_page(
        need(), [planned(need(), disturbed)], []
    )
    assert "Warning:" not in plan_page(need(), [planned(need())], [])


def test_a_plan_never_exceeds_what_the_benchmark_measured() -> None:
    free = need(cameras=24, margin=0, prices={HOME: 0.1}, what_if={"substream": None})
    assert best(free).most >= 12
    short = bench(pipeline=(run_row(1), run_row(8), run_row(9, holds=False, age_p99_ms=300.0)))
    answer = best(free, short)
    assert (answer.most, answer.measured, answer.devices, answer.each) == (8, 8, 3, 8)
    assert answer.money is not None
    assert answer.money.month == pytest.approx(3 * 0.1 * 730)
    page = plan_page(free, [planned(free, short)], [])
    assert "**3 × this machine are enough, with a margin of 0%.** Each device supports 8 cameras" in page
    assert "8 cameras with `onnxruntime-cpu-fp32` (measured). With 8 cameras on the fullest device" in page
    assert "within 28 ms (50%), 30 ms (95%), 40 ms (99%) (measured)" in page
    harder = need(cameras=24, margin=0, target={"fps": 12, "age_ms": 150}, what_if={"substream": None})
    assert best(harder, short).most <= 8
    both = bench(
        pipeline=[row.model_copy(update={"other_cores": 3.0}) for row in short.pipeline],
        engines=(engine_row(), engine_row("openvino-cpu-fp32")),
    )
    answer = best(free, both)
    assert (answer.engine, answer.most) == (CPU, 8), "an engine that was not run promises no more in proportion"
    none = best(free, bench(pipeline=(run_row(1, holds=False, age_p99_ms=300.0),)))
    assert (none.most, none.devices) == (0, None)


def test_the_forecast_is_corrected_by_the_runs_of_the_benchmark() -> None:
    wanted = need(cameras=24, what_if={"substream": None})
    early = bench(pipeline=(run_row(1), run_row(8), run_row(9, holds=False)))
    assert corrected_load(early).correction > 1.2
    assert best(wanted, early).most == pytest.approx(0.85 * 8, abs=1), "the margin is kept of what was measured"
    assert best(need(target={"fps": 5}, what_if={"substream": None}), early).most < best(need(target={"fps": 5})).most
    assert any("The costs are multiplied by 1." in note for note in planned(wanted, early).notes)
    assert corrected_load(bench()).correction == 1
    late = bench(pipeline=(run_row(1), run_row(16), run_row(17, holds=False)))
    assert corrected_load(late).correction < 0.95
    disturbed = bench(pipeline=(run_row(1), run_row(9, holds=False, other_cores=3.0)))
    assert corrected_load(disturbed).correction == 1


def cameras_at(fps: float, report: BenchReport, margin: float = 0.15) -> int:
    """Return the planned number of cameras at a rate, without alternatives."""
    wanted = need(target={"fps": fps}, video={"fps": 30}, margin=margin)
    answer = answer_of(MeasuredMachine(HOME, report), wanted, engines_of(report, wanted)[0], corrected_load(report))
    assert answer is not None
    return answer.most


def assert_monotone(rates: Sequence[float], report: BenchReport) -> None:
    found = [(fps, cameras_at(fps, report)) for fps in rates]
    assert found[-1][1] > 0
    # One camera more at a higher rate is within the noise of the simulation.
    more = [(before, after) for before, after in itertools.pairwise(found) if after[1] > before[1] + 1]
    assert not more
    assert found[0][1] > 3 * found[-1][1]


def test_the_capacity_does_not_depend_on_whole_results_in_the_simulated_time() -> None:
    assert_monotone((0.1, 0.5, 0.7, 1, 1.5, 2, 2.4, 2.5, 2.6, 3, 3.3, 3.5, 4, 5.5, 7.7, 10, 15, 20, 29.9, 30), bench())


@pytest.mark.slow
def test_the_capacity_falls_with_the_rate_in_a_fine_sweep() -> None:
    assert_monotone([tenths / 10 for tenths in range(1, 301)], bench())
    limit = bench(pipeline=(run_row(1), run_row(8), run_row(9, holds=False)))
    assert_monotone([tenths / 10 for tenths in range(1, 301, 7)], limit)
