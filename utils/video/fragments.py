"""Packets of a video as they come, copied into fragments of an MP4 file, of a second or a group of pictures each: a clip is some of them
behind the file's head, with their clock set back, and nothing is encoded. Sound is left out.
"""

import struct
import threading
import time
from collections import deque
from fractions import Fraction
from typing import NamedTuple

TICKS = 90_000  # a second
MOST = 64 << 20  # bytes of one stream that are kept
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


class Footage:
    """The last `seconds` of a stream, as they came, MOST bytes at most. May be used by two threads."""

    def __init__(self, seconds: float):
        self._seconds, self._parts, self._bytes, self._lock = seconds, deque(), 0, threading.Lock()

    def add(self, connection: int, part: Fragment) -> None:
        """The next part, of connection number `connection`."""
        with self._lock:
            self._parts.append((time.monotonic(), connection, part))
            self._bytes += len(part.data)
            while self._parts and (self._bytes > MOST or time.monotonic() - self._parts[0][0] > self._seconds):
                self._bytes -= len(self._parts.popleft()[2].data)

    def cut(self, connection: int, start: float, end: float) -> bytes | None:
        """An MP4 of a connection's seconds [start, end), or what is there of them, from the key frame before them on; None for nothing."""
        with self._lock:
            parts = [part for _, of, part in self._parts if of == connection and part.start < end]
        keys = [at for at, part in enumerate(parts) if part.key]
        if not keys or parts[-1].end <= start:
            return None
        parts = parts[max((at for at in keys if parts[at].start <= start), default=keys[0]) :]
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
