"""The clock network: a deployment graph that reads the time code of a picture and tells the moment as a class number.

``now − class_id`` where a result comes out is the true age of its picture, through everything in between. It has no weights, and
counts in integers: the moment it tells is the one in the picture, or none. It may also burn a chosen amount of computing time, so
that a machine can be overloaded on purpose.

What the time code is stands in :mod:`vision_infer.core.time_code`; :func:`vision_infer.stream.time_code.read` reads it alike.
"""

from __future__ import annotations

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

CANDIDATES = 300
"""K, as other detectors have it; the moment is the first, the others score 0"""
DEFAULT_INPUT = Size(320, 180)
BURN_CHANNELS, BURN_SIDE = 64, 32
"""of a convolution that burns time: 75 million floating point operations, half a millisecond to a millisecond of a core"""
_IR_VERSION = 8
_BITS = len(MOMENT_CELLS)


def clock_card(name: str = "clock", size: Size = DEFAULT_INPUT) -> ModelCard:
    """What the network is. A picture is stretched over the input, so that every cell is where the network looks for it."""
    return ModelCard(
        name=name,
        input=InputSize(width=size.width, height=size.height),
        fit="stretch",
        fill=(0, 0, 0),
        labels=None,
        confidence=0.5,
        iou=None,
        license="Apache-2.0",
        weights=Weights(source="none: vision_infer/model/clock_network.py builds the graph, which has no weights"),
    )


def build_clock_network(name: str = "clock", size: Size = DEFAULT_INPUT, burn: int = 0) -> onnx.ModelProto:
    """Build the deployment graph.

    Args:
        name: of the model.
        size: of the input, at least 160×90.
        burn: how many convolutions (:data:`BURN_CHANNELS`) are computed beside the answer, and change nothing in it.

    Raises:
        ValueError: the input is too small.
    """
    if size.width < MIN_WIDTH or size.height < MIN_HEIGHT:
        raise ValueError(f"the input must be at least {MIN_WIDTH}x{MIN_HEIGHT}, got {size}")
    builder = GraphBuilder()
    pixels = builder.cast("images", TensorProto.INT32, "pixels")  # first of all: some runtimes take uint8 for nothing else
    cells, samples = _cell_sums(builder, pixels, size)
    bits, clear = _black_or_white(builder, cells, samples)
    valid = builder.add("And", clear, _as_its_moment_has_them(builder, bits), name="valid")
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
    """The sum of each cell's middle, int32 [B, 36], row by row; and of how many values."""
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
    """Which cells are white, int32 [B, 36], and whether every one of them and the guards' contrast is clear, bool [B, 1]."""
    white_guards = builder.add("Gather", cells, builder.ints("white_guards", *WHITE_GUARDS), name="white_guards", axis=1)
    black_guards = builder.add("Gather", cells, builder.ints("black_guards", *BLACK_GUARDS), name="black_guards", axis=1)
    white = builder.add("ReduceMin", white_guards, name="white", axes=[1], keepdims=1)
    black = builder.add("ReduceMax", black_guards, name="black", axes=[1], keepdims=1)
    contrast = builder.add("Sub", white, black, name="contrast")
    # Everything is doubled, so that the middle between black and white is whole.
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


def _as_its_moment_has_them(builder: GraphBuilder, bits: str) -> str:
    """Whether all cells, guards and checksum too, are what the moment asks for, bool [B, 1]."""
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
    """Convolutions whose result is never below zero, whatever the picture; whether that is so, bool [B, 1]."""
    corner = [
        builder.ints(f"corner_{name}", *values) for name, values in (("from", (0, 0)), ("to", (BURN_SIDE,) * 2), ("axes", (1, 2)))
    ]
    values = builder.cast(builder.add("Slice", pixels, *corner, name="corner"), TensorProto.FLOAT, "corner_values")
    values = builder.add("Transpose", values, name="channels_first", perm=[0, 3, 1, 2])
    spread = builder.constant("spread", np.full((BURN_CHANNELS, 3, 1, 1), 1 / 3, np.float32))
    values = builder.add("Conv", values, spread, name="burn")
    # A mean over the neighbourhood: values stay within those of the picture, however often it is taken.
    mean = np.full((BURN_CHANNELS, BURN_CHANNELS, 3, 3), 1 / (9 * BURN_CHANNELS), np.float32)
    weights = builder.constant("mean", mean)
    for _ in range(times):
        values = builder.add("Conv", values, weights, name="burn", pads=[1, 1, 1, 1])
    least = builder.add("ReduceMin", values, name="burnt", axes=[1, 2, 3], keepdims=0)
    low = builder.add("Less", least, builder.constant("below_zero", np.array(-1, np.float32)), name="is_negative")
    return builder.add("Unsqueeze", builder.add("Not", low, name="is_not_negative"), builder.ints("axis", 1), name="burn_is_done")


def _outputs(builder: GraphBuilder, bits: str, valid: str, size: Size) -> None:
    """One detection where the moment is valid; all others, and all where it is not, score 0."""
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
