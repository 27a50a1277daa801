"""STUN messages of connectivity checks (RFC 8489)."""

from __future__ import annotations

import struct

from aioice import stun


class StunMessage:
    """A parsed STUN message.

    Raises:
        ValueError: It is not a valid STUN message for the method Binding.
    """

    def __init__(self, data: bytes) -> None:
        try:
            self.message = stun.parse_message(data)
        except struct.error as error:  # an attribute has another length than its type
            raise ValueError("invalid attribute") from error
        if self.message.message_method != stun.Method.BINDING:
            raise ValueError("unknown method")

    def proves(self, password: str) -> bool:
        """Return whether its sender knows a password (MESSAGE-INTEGRITY)."""
        return self.message.check_message_integrity(password.encode())
