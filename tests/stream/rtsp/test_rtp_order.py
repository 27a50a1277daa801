"""RTP packets are parsed, put in order, and counted; RTCP packets give the camera's clock."""

from __future__ import annotations

import random
import struct

from hypothesis import given
from hypothesis import strategies as st

from tests.support.rtp_packets import SSRC, rtp
from vision_infer.stream.rtsp.rtcp import Goodbye, ReceiverReports, SenderReport, parse_rtcp
from vision_infer.stream.rtsp.rtp import RtpOrder, RtpTimeline, parse_rtp

SECOND = 1_000_000_000
MS = 1_000_000


def passed(order: RtpOrder, *packets: bytes, now_ns: int = 0) -> list[tuple[int, int]]:
    """Return the sequence numbers that are passed on, and the losses before each."""
    return [(packet.sequence, lost) for data in packets for packet, lost in order.push(data, now_ns)]


def test_the_payload_is_what_the_header_leaves() -> None:
    plain = parse_rtp(rtp(b"abc", 7, 9, True))
    assert plain is not None
    assert plain[:5] == (96, True, 7, 9, SSRC)
    assert plain.data[plain.begin : plain.end] == b"abc"
    # Two contributing sources, an extension of one word, and three bytes of padding.
    odd = b"\xb2" + rtp(b"", 1)[1:] + bytes(8) + b"\xbe\xde\0\1abcd" + b"payload" + b"\0\0\3"
    packet = parse_rtp(odd)
    assert packet is not None
    assert packet.data[packet.begin : packet.end] == b"payload"


def test_damaged_headers_are_refused_and_a_wrong_padding_is_ignored() -> None:
    assert parse_rtp(b"") is None
    assert parse_rtp(b"\x40" + rtp(b"a", 1)[1:]) is None
    assert parse_rtp(b"\x90" + rtp(b"", 1)[1:]) is None
    assert parse_rtp(b"\x90" + rtp(b"", 1)[1:] + b"\0\0\xff\xff") is None
    assert parse_rtp(b"\x8f" + rtp(b"abc", 1)[1:]) is None
    padded = parse_rtp(b"\xa0" + rtp(b"ab\xff", 1)[1:])
    assert padded is not None
    assert padded.end == len(padded.data)


@given(st.binary(max_size=64))
def test_any_packet_is_parsed_or_refused(data: bytes) -> None:
    packet = parse_rtp(data)
    assert packet is None or 12 <= packet.begin <= packet.end <= len(data)
    parse_rtcp(data)
    parse_rtcp(b"\x81\xc8" + data)


def test_over_tcp_a_gap_is_a_loss_and_a_repetition_is_dropped() -> None:
    order = RtpOrder(96)
    numbers = [65_534, 65_535, 0, 3, 3, 2, 4]
    assert passed(order, *(rtp(b"", number) for number in numbers)) == [(65_534, 0), (65_535, 0), (0, 0), (3, 2), (4, 0)]
    assert (order.counts.received, order.counts.lost, order.counts.late, order.counts.duplicates) == (5, 2, 1, 1)
    assert order.highest == 0x1_0004


def test_the_highest_number_counts_its_cycles() -> None:
    order = RtpOrder(96)
    for number, highest in ((65_534, 65_534), (65_535, 65_535), (0, 65_536)):
        passed(order, rtp(b"", number))
        assert order.highest == highest


def test_over_udp_packets_are_put_in_order() -> None:
    order = RtpOrder(96, window=16)
    numbers = list(range(65_500, 65_500 + 300))
    rng = random.Random(1)
    for at in range(0, 296, 3):
        part = numbers[at + 1 : at + 4]
        rng.shuffle(part)
        numbers[at + 1 : at + 4] = part
    found = passed(order, *(rtp(b"", number) for number in numbers))
    assert found == [(number & 0xFFFF, 0) for number in range(65_500, 65_800)]
    assert order.counts.lost == 0
    late = sum(any(earlier > number for earlier in numbers[:at]) for at, number in enumerate(numbers))
    assert order.counts.reordered == late > 0


def test_over_udp_a_missing_packet_is_given_up_after_a_time_or_a_number_of_packets() -> None:
    order = RtpOrder(96, window=4, wait_ns=50 * MS)
    assert passed(order, rtp(b"", 1), rtp(b"", 3), rtp(b"", 4), rtp(b"", 3)) == [(1, 0)]
    assert order.deadline_ns == 50 * MS
    assert order.expire(49 * MS) == []
    assert [(packet.sequence, lost) for packet, lost in order.expire(50 * MS)] == [(3, 1), (4, 0)]
    assert not order._waiting
    assert passed(order, *(rtp(b"", number) for number in (6, 7, 8, 9, 10))) == [(6, 1), (7, 0), (8, 0), (9, 0), (10, 0)]
    assert passed(order, rtp(b"", 2)) == []
    assert (order.counts.lost, order.counts.late, order.counts.duplicates) == (2, 1, 1)


NUMBERS = st.one_of(st.integers(0, 40), st.integers(65_500, 65_535), st.integers(0, 65_535))


@given(st.lists(st.tuples(NUMBERS, st.integers(0, 2), st.sampled_from([1, 400])), max_size=200), st.sampled_from([0, 8]))
def test_no_packet_is_passed_twice_and_none_waits_for_ever(packets: list[tuple[int, int, int]], window: int) -> None:
    order = RtpOrder(96, window)
    total = now_ns = 0
    for number, ssrc, wait_ms in packets:
        now_ns += wait_ms * MS
        total += len(order.push(rtp(b"", number, ssrc=ssrc), now_ns))
        assert len(order._waiting) <= window
    total += len(order.expire(now_ns + 10 * SECOND))
    assert order.deadline_ns is None
    counts = order.counts
    assert total == counts.received <= len(packets)
    assert counts.received + counts.duplicates + counts.late + counts.foreign + len(order._held) == len(packets)


def test_packets_of_another_type_or_session_are_ignored() -> None:
    order = RtpOrder(96)
    # Private packets with the sequence number of the previous one, and an old session on a new connection:
    # https://github.com/scottlamb/retina/blob/main/src/client/rtp.rs
    packets = [rtp(b"", 1), rtp(b"", 1, kind=50), rtp(b"", 500, ssrc=7), rtp(b"", 501, ssrc=7), rtp(b"", 2), b"damaged"]
    assert passed(order, *packets) == [(1, 0), (2, 0)]
    assert (order.counts.foreign, order.counts.damaged, order.counts.lost) == (3, 1, 0)


def test_a_new_source_takes_over_when_the_old_one_is_silent() -> None:
    order = RtpOrder(96)
    passed(order, rtp(b"", 1))
    new = [rtp(b"", number, ssrc=7) for number in (900, 901, 902, 903)]
    assert passed(order, *new[:2], now_ns=299 * MS) == []
    assert passed(order, *new[2:], now_ns=300 * MS) == [(900, 1), (901, 0), (902, 0), (903, 0)]
    assert (order.ssrc, order.counts.restarts, order.counts.foreign) == (7, 1, 0)


def test_a_source_that_changes_between_two_packets_goes_on() -> None:
    # Seen with a Uniview camera, at each group of pictures: https://github.com/bluenviron/gortsplib/issues/687
    order = RtpOrder(96)
    packets = [rtp(b"", number, ssrc=number // 3) for number in range(9)]
    assert passed(order, *packets) == [(number, 0) for number in range(9)]
    assert (order.ssrc, order.counts.lost, order.counts.foreign) == (2, 0, 0)


def test_two_packets_in_sequence_end_a_jump() -> None:
    order = RtpOrder(96)
    assert passed(order, rtp(b"", 1), rtp(b"", 20_000), rtp(b"", 2), rtp(b"", 40_000), rtp(b"", 40_001)) == [
        (1, 0),
        (2, 0),
        (40_000, 1),
        (40_001, 0),
    ]


def test_packets_of_another_source_do_not_wait_without_limit() -> None:
    order = RtpOrder(96)
    passed(order, rtp(b"", 1))
    assert passed(order, *(rtp(b"", number, ssrc=7) for number in range(1000, 2000)))[0] == (1000, 1)
    for number in range(0, 4000, 2):
        passed(order, rtp(b"", number, ssrc=8))
        assert len(order._held) <= 1


def test_timestamps_do_not_wrap() -> None:
    timeline = RtpTimeline()
    found = [timeline.extend(value & 0xFFFFFFFF) for value in (2**32 - 10, 5, 2**32 - 3, 20)]
    assert found == [2**32 - 10, 2**32 + 5, 2**32 - 3, 2**32 + 20]


def test_a_sender_report_gives_the_time_of_a_timestamp() -> None:
    seconds = 1_700_000_000
    ntp = (seconds + 2_208_988_800) << 32 | 1 << 31
    report = struct.pack("!BBHIQIII", 0x80, 200, 6, SSRC, ntp, 1234, 1, 2)
    description = b"\x81\xca\0\2" + struct.pack("!I", SSRC) + b"\1\0\0\0"
    bye = b"\x82\xcb\0\2" + struct.pack("!II", SSRC, 5)
    assert parse_rtcp(report + description + bye) == [
        SenderReport(SSRC, seconds * SECOND + SECOND // 2, 1234, ntp >> 16 & 0xFFFFFFFF),
        Goodbye(SSRC),
        Goodbye(5),
    ]
    assert parse_rtcp(report[:-1]) == []
    assert parse_rtcp(struct.pack("!BBHIQIII", 0x80, 200, 6, SSRC, 0, 1234, 1, 2)) == [SenderReport(SSRC, 0, 1234, 0)]


def test_a_receiver_report_counts_losses_and_returns_the_sender_report() -> None:
    order, reports = RtpOrder(96), ReceiverReports(0xCAFE, 90_000)
    passed(order, rtp(b"", 65_535), rtp(b"", 0), rtp(b"", 3), rtp(b"", 4))
    reports.sender_report(SenderReport(SSRC, 1, 0, 0xABCDEF01), 0)
    for place in range(3):
        reports.packet(place * 3000, place * SECOND // 30)
    data = reports.write(order, SECOND // 2)
    assert data[:4] == b"\x81\xc9\0\7"
    ours, theirs, losses, highest, jitter, middle, since = struct.unpack_from("!IIIIIII", data, 4)
    assert (ours, theirs, losses, highest) == (0xCAFE, SSRC, (2 * 256 // 6) << 24 | 2, 0x1_0004)
    assert (jitter, middle, since) == (0, 0xABCDEF01, 32_768)
    assert len(data) % 4 == 0
    assert data[32:36] == b"\x81\xca\0\5"
    again = struct.unpack_from("!I", reports.write(order, SECOND), 12)[0]
    assert again == 2  # no recent loss
