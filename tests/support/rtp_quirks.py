"""What cameras send that deviates from RFC 6184, RFC 7798 and RFC 3550: a corpus of packets.

All packets are synthetic. Each quirk names the report in which it was seen, and what a reader has to make of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tests.support.rtp_packets import aggregate, annex_b, fragments264, fragments265, slice264, slice265

SPS, PPS, SEI, AUD = b"\x67\x64\x00\x33\xac\x15", b"\x68\xee\x3c\xb0", b"\x06\xe5\x01\x02\x80", b"\x09\xf0"
VPS5, SPS5, PPS5, SEI5 = b"\x40\x01\x0c\x01", b"\x42\x01\x01\x01", b"\x44\x01\xc1\x72", b"\x4e\x01\xe5\x01\x80"
IDR, P, LONG = slice264(5), slice264(1), slice264(5, 299)
IDR5, P5, LONG5 = slice265(19), slice265(1), slice265(20, 299)
PARTS, PARTS5 = fragments264(LONG, 100), fragments265(LONG5, 100)

SIGNED = b"\x06\x05\x20" + bytes(range(1, 20)) + b"\0\0\1\x65\x88" + bytes(range(1, 25)) + b"\0\0\1\x41\x9a\x80"
ESCAPED = SIGNED.replace(b"\0\0\1", b"\0\0\3\1")

Packet = tuple[int, bool, bytes]
"""The timestamp, the marker bit and the payload; the sequence numbers have no gap."""
Given = tuple[int, bool, bytes]
"""The number of the packet after which a picture is given out, from 0, whether it is damaged, and its bytes."""


@dataclass(frozen=True)
class Quirk:
    """A deviation."""

    name: str
    source: str
    packets: tuple[Packet, ...]
    pictures: tuple[Given, ...]
    codec: Literal["h264", "h265"] = "h264"


QUIRKS = (
    Quirk(
        "parameter sets with a marker, and with the timestamp of the previous picture (Reolink RLC-822A)",
        "https://github.com/scottlamb/retina/issues/13",
        ((0, True, SPS), (0, False, PPS), (9, True, IDR), (18, True, P), (18, False, SPS), (18, False, PPS), (27, True, IDR)),
        ((2, False, annex_b(SPS, PPS, IDR)), (3, False, annex_b(P)), (6, False, annex_b(SPS, PPS, IDR))),
    ),
    Quirk(
        "a marker on SPS, PPS and SEI (RtspServer)",
        "https://github.com/AlexxIT/go2rtc/issues/244",
        ((9, True, SPS), (9, True, PPS), (9, True, SEI), (9, True, IDR), (18, True, P)),
        ((3, False, annex_b(SPS, PPS, SEI, IDR)), (4, False, annex_b(P))),
    ),
    Quirk(
        "a marker on the SEI (LV-IP22IR40DVBL)",
        "https://github.com/scottlamb/moonfire-nvr/issues/352",
        ((9, True, SEI), (9, False, PARTS[0]), (9, False, PARTS[1]), (9, True, PARTS[2]), (18, True, SEI), (18, True, P)),
        ((3, False, annex_b(SEI, LONG)), (5, False, annex_b(SEI, P))),
    ),
    Quirk(
        "no marker at all (FLIR M400)",
        "https://github.com/bluenviron/gortsplib/blob/main/pkg/format/rtph264/decoder.go",
        (*((at * 9, False, P) for at in range(5)), (45, False, SPS), (45, False, PPS), (45, False, IDR), (54, False, P)),
        (*((at + 1, False, annex_b(P)) for at in range(5)), (8, False, annex_b(SPS, PPS, IDR))),
    ),
    Quirk(
        "no marker, and parameter sets with the timestamp of the previous picture",
        "https://github.com/scottlamb/retina/issues/13",
        (*((at * 9, False, P) for at in range(4)), (27, False, SPS), (27, False, PPS), (36, False, IDR), (45, False, P)),
        (*((at + 1, False, annex_b(P)) for at in range(4)), (7, False, annex_b(SPS, PPS, IDR))),
    ),
    Quirk(
        "a marker on each slice: only the first picture is cut",
        "https://github.com/iamscottxu/obs-rtspserver/pull/199",
        (
            *((0, True, IDR), (0, True, slice264(5, first=False))),
            *((9, True, P), (9, True, slice264(1, first=False)), (18, True, P)),
        ),
        (
            (0, False, annex_b(IDR)),
            (2, True, annex_b(slice264(5, first=False))),
            (4, False, annex_b(P, slice264(1, first=False))),
        ),
    ),
    Quirk(
        "start codes in a single NAL unit payload (macro-video)",
        "https://github.com/scottlamb/retina/issues/68",
        ((9, True, SPS + annex_b(PPS, IDR)), (18, True, annex_b(P)), (27, True, annex_b(P)[1:])),
        ((0, False, annex_b(SPS, PPS, IDR)), (1, False, annex_b(P)), (2, False, annex_b(P))),
    ),
    Quirk(
        "start codes in a fragmented unit: SPS, PPS and the picture as one unit (V380 Pro)",
        "https://github.com/scottlamb/retina/issues/108",
        tuple(
            (9, end, part) for part, end in zip(fragments264(SPS + annex_b(PPS, LONG), 150), (False, False, True), strict=True)
        ),
        ((2, False, annex_b(SPS, PPS, LONG)),),
    ),
    Quirk(
        "a unit in a single fragment (CostarHD)",
        "https://github.com/bluenviron/gortsplib/pull/649",
        ((9, True, fragments264(P, 1000)[0]), (18, True, fragments264(P, 1000)[0])),
        ((0, False, annex_b(P)), (1, False, annex_b(P))),
    ),
    Quirk(
        "fragments without an end bit",
        "https://github.com/scottlamb/retina/blob/main/src/codec/h264.rs",
        ((9, False, PARTS[0]), (9, False, PARTS[1]), (9, True, fragments264(LONG, 100, end=False)[2]), (18, True, P)),
        ((2, False, annex_b(LONG)), (3, False, annex_b(P))),
    ),
    Quirk(
        "fragments whose type changes (Tiandy)",
        "https://github.com/scottlamb/moonfire-nvr/issues/344",
        ((9, False, PARTS[0]), (9, False, b"\x7c\x01" + PARTS[1][2:]), (9, True, b"\x7c\x41" + PARTS[2][2:])),
        ((2, False, annex_b(LONG)),),
    ),
    Quirk(
        "fragments without data",
        "https://github.com/scottlamb/retina/issues/115",
        (
            (9, False, b"\x7c\x85"),
            (9, False, b"\x7c\x05" + LONG[1:100]),
            (9, False, b"\x7c\x05"),
            (9, True, b"\x7c\x45" + LONG[100:]),
        ),
        ((3, False, annex_b(LONG)),),
    ),
    Quirk(
        "a fragment without a beginning: the picture is not given out as whole",
        "https://github.com/bluenviron/gortsplib/blob/main/pkg/format/rtph264/decoder.go",
        ((9, False, PARTS[1]), (9, True, PARTS[2]), (18, False, P), (18, False, PARTS[1]), (18, True, PARTS[2]), (27, True, P)),
        ((4, True, annex_b(P)), (5, False, annex_b(P))),
    ),
    Quirk(
        "padding of zeros in an aggregation packet",
        "https://github.com/bluenviron/gortsplib/blob/main/pkg/format/rtph264/decoder.go",
        ((9, True, aggregate(b"\x78", [SPS, PPS, IDR]) + bytes(5)),),
        ((0, False, annex_b(SPS, PPS, IDR)),),
    ),
    Quirk(
        "units without bytes in an aggregation packet",
        "https://github.com/FFmpeg/FFmpeg/blob/master/libavformat/rtpdec_h264.c",
        ((9, True, b"\x78\0\0" + aggregate(b"", [SPS, b"", PPS, IDR])),),
        ((0, False, annex_b(SPS, PPS, IDR)),),
    ),
    Quirk(
        "start codes in the SEI, which is signed (ONVIF Media Signing)",
        "https://github.com/bluenviron/gortsplib/issues/1156",
        ((9, True, SIGNED), *((9, False, part) for part in fragments264(SIGNED, 30)), (9, True, IDR), (18, True, P)),
        ((len(SIGNED) // 30 + 2, False, annex_b(ESCAPED, ESCAPED, IDR)), (len(SIGNED) // 30 + 3, False, annex_b(P))),
    ),
    Quirk(
        "an aggregation packet that is cut off",
        "https://www.rfc-editor.org/rfc/rfc6184#section-5.7.1",
        ((9, True, aggregate(b"\x78", [SPS, PPS, IDR])[:-1]), (18, True, aggregate(b"\x78", [IDR]) + b"\xff\xff\1")),
        ((1, True, annex_b(SPS, PPS, IDR)),),
    ),
    Quirk(
        "pictures with the same timestamp",
        "https://github.com/scottlamb/retina/issues/21",
        ((9, True, P), (9, True, P), (9, True, P)),
        ((0, False, annex_b(P)), (1, False, annex_b(P)), (2, False, annex_b(P))),
    ),
    Quirk(
        "empty packets",
        "https://github.com/AlexxIT/go2rtc/blob/master/pkg/h264/rtp.go",
        ((9, False, b""), (9, True, P), (9, True, b""), (18, True, P)),
        ((1, False, annex_b(P)), (3, False, annex_b(P))),
    ),
    Quirk(
        "a marker on VPS, SPS, PPS and SEI",
        "https://github.com/AlexxIT/go2rtc/issues/244",
        ((0, True, VPS5), (0, True, SPS5), (0, True, PPS5), (0, True, SEI5), (9, True, IDR5), (18, True, P5)),
        ((4, False, annex_b(VPS5, SPS5, PPS5, SEI5, IDR5)), (5, False, annex_b(P5))),
        "h265",
    ),
    Quirk(
        "start codes in the SEI before and after the slices, which is signed (ONVIF Media Signing)",
        "https://github.com/bluenviron/gortsplib/issues/1156",
        ((9, False, b"\x4e\1" + SIGNED), (9, False, IDR5), (9, True, b"\x50\1" + SIGNED), (18, True, P5)),
        (
            (2, False, annex_b(b"\x4e\1" + ESCAPED, IDR5, b"\x50\1" + ESCAPED)),
            (3, False, annex_b(P5)),
        ),
        "h265",
    ),
    Quirk(
        "slices of type 0 (Intel N100)",
        "https://github.com/scottlamb/retina/issues/123",
        ((0, True, slice265(0)), (9, True, annex_b(slice265(0)))),
        ((0, False, annex_b(slice265(0))), (1, False, annex_b(slice265(0)))),
        "h265",
    ),
    Quirk(
        "a unit in a single fragment (OpenIPC), and fragments without data and without an end",
        "https://github.com/scottlamb/retina/pull/131",
        (
            (9, True, fragments265(P5, 1000)[0]),
            *(
                (18, False, PARTS5[0]),
                (18, False, PARTS5[1][:3]),
                (18, False, PARTS5[1]),
                (18, True, fragments265(LONG5, 100, False)[2]),
            ),
            (27, True, P5),
        ),
        ((0, False, annex_b(P5)), (4, False, annex_b(LONG5)), (5, False, annex_b(P5))),
        "h265",
    ),
    Quirk(
        "an aggregation packet with all parameter sets, and no marker",
        "https://www.rfc-editor.org/rfc/rfc7798#section-4.4.2",
        ((0, False, aggregate(b"\x60\1", [VPS5, SPS5, PPS5])), (0, False, IDR5), (9, False, P5), (18, False, P5)),
        ((2, False, annex_b(VPS5, SPS5, PPS5, IDR5)), (3, False, annex_b(P5))),
        "h265",
    ),
)
