"""tools/bench/extract.py at small sizes: what it compares is the same, and what it measures is there."""

import re

import numpy as np

from tools.bench import extract as bench
from utils.video.frames import Video, to_rgb


def test_the_bench_from_end_to_end(small_clip, capsys):
    bench.bench_extract(2, 1, lambda: small_clip)
    out = capsys.readouterr().out
    assert float(re.search(r"features differ by (\S+) of the largest", out)[1]) < 1e-4
    assert re.search(r"ten crops, tiny encoder: .* literal .* times faster; CPU .* times less", out)
    shares = re.findall(r"ViT-B/16's sizes, .*; (.+)% of the time outside the encoder, (.+)% of the CPU time", out)
    assert len(shares) == 2
    assert all(0 < float(share) < 100 for pair in shares for share in pair)


def test_the_generated_video_is_the_same_every_time(tmp_path):
    """To the eye: on a busy machine libx264 makes other bytes of the same pictures now and then (LOG.md)."""
    paths = [bench.write_video(tmp_path / name, 1, seed=seed) for name, seed in (("a.mp4", 0), ("b.mp4", 0), ("c.mp4", 1))]
    pictures = []
    for path in paths:
        with Video(path) as video:
            pictures.append(np.stack([to_rgb(frame) for frame in video.decode()]).astype(float))
    assert np.abs(pictures[0] - pictures[1]).mean() < 1
    assert np.abs(pictures[0] - pictures[2]).mean() > 20
    with Video(paths[0]) as video:
        assert (video.width, video.height, video.frames, video.fps) == (320, 240, 30, 30)
