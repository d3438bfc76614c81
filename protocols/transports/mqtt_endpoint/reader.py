"""Reads the data types of MQTT (3.1.1 section 1.5, 5.0 section 1.5) from one packet, and never past its end."""

from __future__ import annotations

from typing import Final

from gateway.errors import FramingError

MALFORMED: Final = 0x81
PROTOCOL_ERROR: Final = 0x82


class PacketError(FramingError):
    """What a peer sent breaks the standard. ``code`` is the MQTT 5 reason. Handler: the connection closes itself."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class Reader:
    """A cursor over ``data[pos:stop]``. Every method raises PacketError (0x81) when the packet is too short."""

    __slots__ = ("data", "pos", "stop")

    def __init__(self, data: bytes, pos: int, stop: int) -> None:
        self.data = data
        self.pos = pos
        self.stop = stop

    @property
    def left(self) -> int:
        return self.stop - self.pos

    def take(self, count: int) -> bytes:
        end = self.pos + count
        if end > self.stop:
            raise PacketError(MALFORMED, f"the packet ends {end - self.stop} bytes early")
        piece = self.data[self.pos : end]
        self.pos = end
        return piece

    def u8(self) -> int:
        return self.take(1)[0]

    def u16(self) -> int:
        return int.from_bytes(self.take(2), "big")

    def u32(self) -> int:
        return int.from_bytes(self.take(4), "big")

    def varint(self) -> int:
        """A Variable Byte Integer: at most four bytes, and no more than needed ([MQTT-1.5.5-1])."""
        value = 0
        for shift in (0, 7, 14, 21):
            byte = self.u8()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if byte == 0 and shift:
                    raise PacketError(MALFORMED, "a length takes more bytes than it needs [MQTT-1.5.5-1]")
                return value
        raise PacketError(MALFORMED, "a length of more than four bytes")

    def binary(self) -> bytes:
        return self.take(self.u16())

    def string(self) -> str:
        """UTF-8 without surrogates and without U+0000 ([MQTT-1.5.4-1], [MQTT-1.5.4-2]; 3.1.1: [MQTT-1.5.3-1, -2])."""
        try:
            text = self.take(self.u16()).decode("utf-8")
        except UnicodeDecodeError as error:
            raise PacketError(MALFORMED, "a string is not UTF-8 [MQTT-1.5.4-1]") from error
        if "\0" in text:
            raise PacketError(MALFORMED, "a string has the character U+0000 [MQTT-1.5.4-2]")
        return text

    def rest(self) -> bytes:
        piece = self.data[self.pos : self.stop]
        self.pos = self.stop
        return piece

    def end(self) -> None:
        """Raises PacketError when the packet goes on."""
        if self.pos != self.stop:
            raise PacketError(MALFORMED, f"{self.stop - self.pos} bytes too many at the end of the packet")


def encode_varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def encode_binary(value: bytes) -> bytes:
    return len(value).to_bytes(2, "big") + value


def encode_string(value: str) -> bytes:
    return encode_binary(value.encode("utf-8"))
