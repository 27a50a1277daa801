"""Reads fields of headers bit by bit."""

from __future__ import annotations


class Bits:
    """Reads fields from the beginning of data.

    Args:
        data: The bytes, without the emulation prevention bytes of NAL units; see :func:`without_emulation`.
    """

    def __init__(self, data: bytes) -> None:
        self._value = int.from_bytes(data, "big")
        self._left = 8 * len(data)

    def bits(self, count: int) -> int:
        """Read a number of ``count`` bits, most significant bit first.

        Raises:
            ValueError: The data has ended.
        """
        self._left -= count
        if self._left < 0:
            raise ValueError("the header is truncated")
        return self._value >> self._left & ((1 << count) - 1)

    def exp(self) -> int:
        """Read an unsigned Exp-Golomb number: ue(v) of H.264 and H.265, uvlc() of AV1.

        Raises:
            ValueError: The number has more than 32 bits, or the data has ended.
        """
        zeros = 0
        while not self.bits(1):
            zeros += 1
            if zeros > 32:
                raise ValueError("the header is damaged")
        return (1 << zeros) - 1 + self.bits(zeros)

    def signed(self) -> int:
        """Read a signed Exp-Golomb number, se(v)."""
        code = self.exp()
        return (code + 1) // 2 if code & 1 else -(code // 2)


def without_emulation(unit: bytes) -> bytes:
    """Return a NAL unit without its emulation prevention bytes (H.264, 7.4.1; H.265, 7.4.2)."""
    return unit.replace(b"\0\0\3", b"\0\0")
