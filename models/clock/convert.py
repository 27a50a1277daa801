"""Build ``model.onnx``: a deployment graph that reads the time code of an image and returns the time as a class number.

    python models/clock/convert.py                          write model.onnx
    python models/clock/convert.py --check                  write nothing; compare with the existing model.onnx
    python models/clock/convert.py --burn N --out FILE      build a model that uses additional computing time

``now − class_id`` of a result is the true age of its image. The model has no weights and computes with integers, so it returns
the exact time in the image or none. :mod:`vision_infer.core.time_code` defines the time code, and
:func:`vision_infer.stream.time_code_reader.read` reads it in the same way.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from vision_infer.core.card import InputSize, ModelCard, Weights
from vision_infer.core.geometry import Size
from vision_infer.core.time_code import (
    BLACK_GUARDS,
    CELLS,
    COLUMNS,
    GUARD_CONTRAST,
    MIN_HEIGHT,
    MIN_WIDTH,
    MOMENT_CELLS,
    ROWS,
    WHITE_GUARDS,
    column_edges,
    middles,
    row_edges,
)
from vision_infer.model.graph import BATCH, OPSET, GraphBuilder, finish, tensor_info

HERE = Path(__file__).resolve().parent
CANDIDATES = 300
"""K, as of other detectors; the first detection is the time, the others have score 0."""
DEFAULT_INPUT = Size(320, 180)
BURN_CHANNELS, BURN_SIDE = 64, 32
"""The size of a convolution that burns time: 75 million floating-point operations, 0.5–1 ms of a core."""
_IR_VERSION = 8
_BITS = len(MOMENT_CELLS)


def clock_card(name: str = "clock", size: Size = DEFAULT_INPUT) -> ModelCard:
    """Return the model's card. Images are stretched to the input, so that each cell is at the expected position."""
    return ModelCard(
        name=name,
        input=InputSize(width=size.width, height=size.height),
        fit="stretch",
        fill=(0, 0, 0),
        labels=None,
        confidence=0.5,
        iou=None,
        license="Apache-2.0",
        weights=Weights(source="none: models/clock/convert.py builds the graph, which has no weights"),
    )


def build_clock_model(name: str = "clock", size: Size = DEFAULT_INPUT, burn: int = 0) -> onnx.ModelProto:
    """Build the deployment graph.

    Args:
        name: The name of the model.
        size: The input size, at least 160×90.
        burn: The number of additional convolutions (:data:`BURN_CHANNELS`), which do not change the results.

    Raises:
        ValueError: The input is too small.
    """
    if size.width < MIN_WIDTH or size.height < MIN_HEIGHT:
        raise ValueError(f"the input must be at least {MIN_WIDTH}x{MIN_HEIGHT}, got {size}")
    builder = GraphBuilder()
    pixels = builder.cast("images", TensorProto.INT32, "pixels")  # the first node: some runtimes accept uint8 for a Cast only
    cells, samples = _cell_sums(builder, pixels, size)
    bits, clear = _black_or_white(builder, cells, samples)
    valid = builder.add("And", clear, _matches_its_time(builder, bits), name="valid")
    if burn:
        valid = builder.add("And", valid, _burn(builder, pixels, burn), name="valid")
    _outputs(builder, bits, valid, size)
    shape = (BATCH, CANDIDATES)
    graph = helper.make_graph(
        builder.nodes,
        name,
        [tensor_info("images", TensorProto.UINT8, BATCH, size.height, size.width, 3)],
        [
            tensor_info("boxes", TensorProto.FLOAT, *shape, 4),
            tensor_info("scores", TensorProto.FLOAT, *shape),
            tensor_info("class_ids", TensorProto.INT32, *shape),
        ],
        builder.initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=_IR_VERSION)
    model.producer_name = "vision-infer"
    return finish(model, clock_card(name, size), name)


def _cell_sums(builder: GraphBuilder, pixels: str, size: Size) -> tuple[str, int]:
    """Return the sum of each cell's middle, int32 [B, 36], row by row, and the number of values in each sum."""
    rows, columns = middles(row_edges(size.height)), middles(column_edges(size.width))
    high, wide = min(map(len, rows)), min(map(len, columns))
    lines = builder.ints("lines", *(line for row in rows for line in row[:high]))
    places = builder.ints("places", *(place for column in columns for place in column[:wide]))
    cut = builder.add("Gather", builder.add("Gather", pixels, lines, name="rows", axis=1), places, name="code", axis=2)
    apart = builder.add("Reshape", cut, builder.ints("apart", 0, ROWS, high, COLUMNS, wide, 3), name="cells")
    sums = builder.add("ReduceSum", apart, builder.ints("inside", 2, 4, 5), name="sums", keepdims=0)
    flat = builder.add("Reshape", sums, builder.ints("in_a_row", 0, ROWS * COLUMNS), name="sums_in_a_row")
    return flat, high * wide * 3


def _int32(builder: GraphBuilder, name: str, values: object) -> str:
    return builder.constant(name, np.asarray(values, np.int32))


def _black_or_white(builder: GraphBuilder, cells: str, samples: int) -> tuple[str, str]:
    """Return which cells are white, int32 [B, 36], and whether all cells and the guards are clear, bool [B, 1]."""
    white_guards = builder.add("Gather", cells, builder.ints("white_guards", *WHITE_GUARDS), name="white_guards", axis=1)
    black_guards = builder.add("Gather", cells, builder.ints("black_guards", *BLACK_GUARDS), name="black_guards", axis=1)
    white = builder.add("ReduceMin", white_guards, name="white", axes=[1], keepdims=1)
    black = builder.add("ReduceMax", black_guards, name="black", axes=[1], keepdims=1)
    contrast = builder.add("Sub", white, black, name="contrast")
    # All values are doubled, so that the middle between black and white is an integer.
    from_middle = builder.add(
        "Sub",
        builder.add("Mul", cells, _int32(builder, "two", 2), name="doubled"),
        builder.add("Add", white, black, name="middle"),
        name="from_middle",
    )
    is_white = builder.add("Greater", from_middle, _int32(builder, "zero", 0), name="is_white")
    distance = builder.add("ReduceMin", builder.add("Abs", from_middle, name="distances"), name="distance", axes=[1], keepdims=1)
    twice = builder.add("Mul", distance, _int32(builder, "two", 2), name="distance_doubled")
    clear = builder.add(
        "And",
        builder.add("GreaterOrEqual", twice, contrast, name="cells_are_clear"),
        builder.add("GreaterOrEqual", contrast, _int32(builder, "least", GUARD_CONTRAST * samples), name="guards_are_clear"),
        name="clear",
    )
    return builder.cast(is_white, TensorProto.INT32, "bits"), clear


def _moment_bits(builder: GraphBuilder, bits: str) -> str:
    return builder.add("Gather", bits, builder.ints("moment_cells", *MOMENT_CELLS), name="moment_bits", axis=1)


def _matches_its_time(builder: GraphBuilder, bits: str) -> str:
    """Return whether all cells, including guards and checksum, are those of the encoded time, bool [B, 1]."""
    masks = [[mask >> bit & 1 for bit in reversed(range(_BITS))] for mask, _ in CELLS]
    each = builder.add("Unsqueeze", _moment_bits(builder, bits), builder.ints("axis", 1), name="moment_bits_for_each_cell")
    counted = builder.add("Mul", each, _int32(builder, "masks", masks), name="bits_that_count")
    sums = builder.add("ReduceSum", counted, builder.ints("over_bits", 2), name="how_many_count", keepdims=0)
    odd = builder.add("Add", sums, _int32(builder, "added", [added for _, added in CELLS]), name="how_many")
    wanted = builder.add("Mod", odd, _int32(builder, "two", 2), name="wanted")
    differences = builder.add("Abs", builder.add("Sub", wanted, bits, name="differences"), name="wrong")
    wrong = builder.add("ReduceMax", differences, name="any_wrong", axes=[1], keepdims=1)
    return builder.add("Less", wrong, _int32(builder, "one", 1), name="as_wanted")


def _burn(builder: GraphBuilder, pixels: str, times: int) -> str:
    """Add convolutions whose results are never negative, and return that fact, bool [B, 1]."""
    corner = [
        builder.ints(f"corner_{name}", *values) for name, values in (("from", (0, 0)), ("to", (BURN_SIDE,) * 2), ("axes", (1, 2)))
    ]
    values = builder.cast(builder.add("Slice", pixels, *corner, name="corner"), TensorProto.FLOAT, "corner_values")
    values = builder.add("Transpose", values, name="channels_first", perm=[0, 3, 1, 2])
    spread = builder.constant("spread", np.full((BURN_CHANNELS, 3, 1, 1), 1 / 3, np.float32))
    values = builder.add("Conv", values, spread, name="burn")
    # Repeated means over the neighborhood stay within the range of the image.
    mean = np.full((BURN_CHANNELS, BURN_CHANNELS, 3, 3), 1 / (9 * BURN_CHANNELS), np.float32)
    weights = builder.constant("mean", mean)
    for _ in range(times):
        values = builder.add("Conv", values, weights, name="burn", pads=[1, 1, 1, 1])
    least = builder.add("ReduceMin", values, name="burnt", axes=[1, 2, 3], keepdims=0)
    low = builder.add("Less", least, builder.constant("below_zero", np.array(-1, np.float32)), name="is_negative")
    return builder.add("Unsqueeze", builder.add("Not", low, name="is_not_negative"), builder.ints("axis", 1), name="burn_is_done")


def _outputs(builder: GraphBuilder, bits: str, valid: str, size: Size) -> None:
    """Give one detection if the time is valid; all other detections have score 0."""
    powers = _int32(builder, "powers", [1 << bit for bit in reversed(range(_BITS))])
    weighed = builder.add("Mul", _moment_bits(builder, bits), powers, name="weighed")
    moment = builder.add("ReduceSum", weighed, builder.ints("over_all_bits", 1), name="moment", keepdims=1)
    first = np.zeros((1, CANDIDATES), np.int32)
    first[0, 0] = 1
    whole = builder.cast(valid, TensorProto.INT32, "valid_int32")
    place = builder.add("Mul", whole, builder.constant("first", first), name="place")
    class_ids = builder.add("Mul", place, moment, name="class_ids")
    scores = builder.cast(place, TensorProto.FLOAT, "scores")
    columns, rows = column_edges(size.width), row_edges(size.height)
    box = np.array([columns[0], rows[0], columns[-1], rows[-1]], np.float32).reshape(1, 1, 4)
    for_each = builder.add("Unsqueeze", scores, builder.ints("axis", 2), name="scores_for_boxes")
    boxes = builder.add("Mul", for_each, builder.constant("box", box), name="boxes")
    for tensor, name in ((boxes, "boxes"), (scores, "scores"), (class_ids, "class_ids")):
        builder.rename(tensor, name)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Build the clock model.")
    parser.add_argument("--burn", type=int, default=0, metavar="N", help="the number of additional convolutions")
    parser.add_argument("--out", type=Path, default=HERE / "model.onnx", metavar="FILE")
    parser.add_argument("--check", action="store_true", help="write no file; compare with the existing one")
    options = parser.parse_args(arguments)
    name = f"clock-{options.burn}" if options.burn else "clock"
    built: bytes = build_clock_model(name, burn=options.burn).SerializeToString(deterministic=True)
    if options.check:
        if not options.out.is_file() or options.out.read_bytes() != built:
            raise SystemExit(f"{options.out.name} differs from what this script builds")
        print(f"{options.out.name}: byte-identical")
        return
    options.out.write_bytes(built)
    print(f"{options.out.name}: {len(built):,} bytes, sha256 {hashlib.sha256(built).hexdigest()}")


if __name__ == "__main__":
    main()
