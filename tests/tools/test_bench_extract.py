"""tools/bench/extract.py at small sizes: what it compares is the same, and what it measures is there."""

import re

from tools.bench import extract as bench
from utils.video.frames import Video


def test_the_bench_from_end_to_end(small_clip, capsys):
    bench.bench_extract(2, 1, lambda: small_clip)
    out = capsys.readouterr().out
    assert float(re.search(r"features differ by (\S+) of the largest", out)[1]) < 1e-4
    assert re.search(r"ten crops, tiny encoder: .* literal .* times faster; CPU .* times less", out)
    shares = re.findall(r"ViT-B/16's sizes, .*; (.+)% of the time outside the encoder, (.+)% of the CPU time", out)
    assert len(shares) == 2
    assert all(0 < float(share) < 100 for pair in shares for share in pair)


def test_the_generated_video_is_the_same_every_time(tmp_path):
    paths = [bench.write_video(tmp_path / name, 1, seed=seed) for name, seed in (("a.mp4", 0), ("b.mp4", 0), ("c.mp4", 1))]
    assert paths[0].read_bytes() == paths[1].read_bytes() != paths[2].read_bytes()
    with Video(paths[0]) as video:
        assert (video.width, video.height, video.frames, video.fps) == (320, 240, 30, 30)
