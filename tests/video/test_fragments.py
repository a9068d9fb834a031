"""utils/video/fragments.py: what is kept of a stream. (Clips of streams: tests/app/live/test_alarm.py.)"""

import time

from utils.video.fragments import Footage, Fragment


def test_footage_is_bounded(monkeypatch):
    monkeypatch.setattr("utils.video.fragments.MOST", 1000)
    footage = Footage(1000)
    for i in range(100):
        footage.add(0, Fragment(i, i + 1, True, b"", bytes(300)))
    assert len(footage._parts) == 3
    footage.add(0, Fragment(100, 101, True, b"", bytes(1001)))  # more than may be kept
    assert len(footage._parts) == 0
    footage = Footage(0.05)
    for i in range(5):
        footage.add(0, Fragment(i, i + 1, True, b"", bytes(100)))
        time.sleep(0.03)
    assert len(footage._parts) < 5
