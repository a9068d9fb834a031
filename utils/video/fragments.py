"""Packets of a video as they come, copied into fragments of an MP4 file, of a second or a group of pictures each: a clip is some of them
behind the file's head, with their clock set back, and nothing is encoded. Sound is left out.
"""

import struct
from fractions import Fraction
from typing import NamedTuple

TICKS = 90_000  # a second
LEAP = 10  # seconds between two packets from which on the sender's clock was set anew
PART = struct.Struct("<dd?")  # of a Fragment: start, end, key
OPTIONS = {"movflags": "frag_keyframe+empty_moov+default_base_moof+skip_trailer", "frag_duration": "1000000", "flush_packets": "1"}


class Fragment(NamedTuple):
    """Part of an MP4 file: seconds [start, end) from the connection's first frame, about; whether it begins with a key frame; the file's
    head; its own bytes.
    """

    start: float
    end: float
    key: bool
    head: bytes
    data: bytes


def joined(parts: list[Fragment]) -> bytes:
    """An MP4 of fragments that follow each other, the first of which begins with a key frame."""
    [base] = struct.unpack_from(">Q", parts[0].data, _clock(parts[0].data))
    return parts[0].head + b"".join(_set_back(part.data, base) for part in parts)


def _clock(data: bytes) -> int:
    """Where a fragment says when it begins: 8 bytes of its box tfdt, behind 4 of version and flags."""
    return data.index(b"tfdt") + 8


def _set_back(data: bytes, ticks: int) -> bytes:
    at = _clock(data)
    return data[:at] + struct.pack(">Q", struct.unpack_from(">Q", data, at)[0] - ticks) + data[at + 8 :]


class Copier:
    """Reads an open container in the child as itself would be, and sends what it reads as the parts of an MP4: b"h", the head, once, then
    b"p", PART and bytes. Of a codec that MP4 does not take nothing is sent. `seconds`: how far the pictures have got.
    """

    def __init__(self, container, send, step: float):
        self.format, self.seconds = container.format, 0.0
        self._container, self._send, self._step = container, send, round(step * TICKS)
        self._file = self._stream = self._before = None
        self._at, self._written, self._begun, self._head, self._refused = 0, bytearray(), None, False, False

    def write(self, data) -> int:
        """What the muxer has to say."""
        self._written += data
        return len(data)

    def demux(self, stream):
        """The packets of the stream."""
        for packet in self._container.demux(stream):
            if packet.size and not self._refused and (self._file or packet.is_keyframe):
                self._copy(packet, stream)
            yield packet

    def _copy(self, packet, stream) -> None:
        import av

        try:
            if self._file is None:
                self._file = av.open(self, "w", format="mp4", options=OPTIONS | {"video_track_timescale": str(TICKS)})
                self._stream = self._file.add_stream_from_template(stream)
            copy, now = av.Packet(bytes(packet)), packet.pts if packet.dts is None else packet.dts
            copy.stream, copy.time_base, copy.is_keyframe = self._stream, Fraction(1, TICKS), packet.is_keyframe
            known, unit = now is not None and self._before is not None, packet.time_base * TICKS if packet.time_base else 0
            step = round((now - self._before) * unit) if known else 0
            late = round((packet.pts - now) * unit) if now is not None and packet.pts is not None else 0
            self._at += step if 0 < step < LEAP * TICKS else self._step
            self._before, copy.dts, copy.pts = now, self._at, self._at + (late if 0 < late < LEAP * TICKS else 0)
            self._file.mux(copy)
        except (ValueError, av.FFmpegError):  # of a file that stands, one packet is damaged
            self._refused = not self._head
        self._pass_on(packet.is_keyframe)

    def _pass_on(self, key: bool) -> None:
        """Send what is written: all packets before this one."""
        if self._written and not self._head:
            self._head = True
            self._send(b"h", bytes(self._written))
        elif self._written:
            start, whole = self._begun
            self._send(b"p", PART.pack(start, self.seconds, whole) + self._written)
        else:
            self._begun = self._begun or (self.seconds, key)
            return
        self._begun, self._written = (self.seconds, key), bytearray()

    def close(self) -> None:
        """Send what is left."""
        import av

        if self._head:
            try:
                self._file.close()
            except av.FFmpegError:
                return
            self._pass_on(False)
