"""Speed as a ratio to a literal reference, or to the floor, measured in the same process.

    python -m tools.bench              all of them
    python -m tools.bench step         one training step of ReFLIP-VAD at the paper's sizes
    python -m tools.bench metrics      segment mAP and bootstrap intervals on full test sets (those of ../shared/golden)
    python -m tools.bench vadclip      VadCLIP: a training step and the test of 290 videos, at UCF-Crime's sizes
    python -m tools.bench mamba        Mamba's scan, and a training step of TrCLIP-VAD at the paper's sizes
    python -m tools.bench extract      ten-crop features of a video, with a tiny encoder and with one of ViT-B/16's sizes

Run it on an idle machine; a figure taken beside other work says nothing.
"""

import argparse
import ast
import itertools
import resource
import sys
import time

import numpy as np
import torch
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from model import ReFLIPVAD, build_model
from ucf_option import parse_args
from utils import engine, report
from utils.errors import BadInput, exit_code
from utils.ground_truth import load_ground_truth
from utils.intervals import RESAMPLES, draws, resampled
from utils.labels import UCF, XD
from utils.metrics import IOUS, PROTOCOLS, WHOLE_VIDEO, frame_figures, segment_map
from utils.options import ROOT
from utils.scores import SNIPPET, Scores
from utils.text import openai_clip


def seconds(work, repeats: int) -> float:
    """The shortest of `repeats` timed calls after one that warms up."""
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def matmul_rate(dtype: torch.dtype, size: int = 4096) -> float:
    """FLOP/s of a square matrix product: what the floor of a piece of work is counted with."""
    a, b = torch.randn(size, size).to(dtype), torch.randn(size, size).to(dtype)
    return 2 * size**3 / seconds(lambda: a @ b, 3)


def paper_sized() -> ReFLIPVAD:
    """ReFLIP-VAD on UCF-Crime's classes with the text side of CLIP ViT-B/16 and a DistilBERT of the real size, weights random; the image
    side is not used.
    """
    from transformers import DistilBertConfig, DistilBertModel

    torch.manual_seed(0)
    clip_model = openai_clip().model.CLIP(512, 32, 1, 64, 32, 77, 49408, 512, 8, 12)
    return build_model("reflip", UCF.names, clip_model, distilbert=DistilBertModel(DistilBertConfig()))


def literal_text(model: ReFLIPVAD) -> Tensor:
    """The class text features as the released code computes them: every prompt filled up to 77 tokens, through openai-clip's own
    transformer.
    """
    prompt = model.prompt
    clip_model = prompt.text.module
    tokens = prompt.reparameterization(prompt.tokens)
    rows, ends = [], []
    for name in prompt.names.split(prompt.sizes):
        row = torch.cat([prompt.start, tokens[: prompt.prefix], name, tokens[prompt.prefix :], prompt.end])
        ends.append(len(row) - 1)
        rows.append(torch.cat([row, clip_model.token_embedding(torch.zeros(77 - len(row), dtype=torch.long))]))
    x = clip_model.transformer((torch.stack(rows) + clip_model.positional_embedding).transpose(0, 1)).transpose(0, 1)
    return clip_model.ln_final(x)[torch.arange(len(ends)), ends] @ clip_model.text_projection


def bench_step() -> None:
    """One training step at the paper's sizes: batch 128, length 512, width 512, N = 24, τ = 0.07."""
    model = paper_sized()
    with torch.no_grad():
        ours, literal = model.prompt(), literal_text(model)
    difference = ((ours - literal).abs().max() / literal.abs().max()).item()
    print(f"text side, 77 tokens against the longest in use: largest difference {difference:.1e} of the largest value")
    fast = seconds(lambda: model.prompt().sum().backward(), 5)
    slow = seconds(lambda: literal_text(model).sum().backward(), 5)
    print(f"text side, forward + backward: ours {fast:.3f} s, literal {slow:.3f} s: {slow / fast:.2f} times faster")

    options = parse_args(["--feature-root", "unused", "--device", "cpu"])
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(64, options.visual_length + 1, (options.batch_size,), generator=generator)
    features = (
        torch.randn(options.batch_size, options.visual_length, options.visual_width, generator=generator) * 0.44
    )  # norm 10, as CLIP's
    features *= (torch.arange(options.visual_length) < lengths[:, None])[..., None]
    classes = torch.cat([torch.zeros(options.batch_size // 2, dtype=torch.long), torch.arange(options.batch_size // 2) % 13 + 1])
    batch = (features, lengths, nn.functional.one_hot(classes, 14).float())

    state = {key: value.clone() for key, value in model.state_dict().items()}
    times, losses = {}, {}
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        options.precision = precision
        model.load_state_dict(state)
        model.train()
        optimizer = engine.make_optimizer(model, options)
        with FlopCounterMode(display=False) as counter:
            losses[precision] = engine.step(model, batch, optimizer, options, torch.device("cpu"))["loss"]
        times[precision] = seconds(lambda optimizer=optimizer: engine.step(model, batch, optimizer, options, torch.device("cpu")), 3)
        rate = matmul_rate(dtype)
        flops = counter.get_total_flops()
        floor = flops / rate
        print(
            f"step, {precision}: {times[precision]:.2f} s; floor {flops / 1e12:.3f} TFLOP at {rate / 1e9:.0f} GFLOP/s = {floor:.2f} s; "
            f"time / floor {times[precision] / floor:.2f}; loss {losses[precision]:.5f}"
        )
    change = abs(losses["bf16"] / losses["fp32"] - 1)
    print(f"bf16 against fp32: {times['fp32'] / times['bf16']:.2f} times faster, loss differs by {change:.2%}")
    print(f"peak memory of this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB")


def literal_map(probs, segments, labels, classes) -> list[float]:
    """The released code's segment mAP at the five IoUs, loop by loop: frames as sets, every IoU anew."""
    tops = [np.sort(prob, 0)[::-1][: len(prob) // 16].mean(0) for prob in probs]
    result = []
    for iou_needed in IOUS:
        precisions = []
        for c, name in enumerate(classes):
            found = []
            for video, prob in enumerate(probs):
                score = prob[:, c] * (tops[video][c] > 0)
                above = np.concatenate([[0], score > score.max() - (score.max() - score.min()) * 0.6, [0]]).astype(int)
                steps = [above[i + 1] - above[i] for i in range(len(above) - 1)]
                starts, ends = ([i for i, step in enumerate(steps) if step == way] for way in (1, -1))
                for start, end in zip(starts, ends, strict=True):
                    if end - start >= 2:
                        found.append((video, start, end, score[start:end].max() + 0.7 * tops[video][c]))
            found.sort(key=lambda row: -row[3])
            truth = [
                (video, *part)
                for video in range(len(probs))
                for part, own in zip(segments[video], labels[video], strict=True)
                if own == name
            ]
            count, hits = len(truth), []
            for video, start, end, _ in found:
                best, which = 0.0, None
                for index, (other, first, last) in enumerate(truth):
                    if other == video:
                        ours, theirs = set(range(start, end)), set(range(first, last))
                        iou = len(ours & theirs) / len(ours | theirs)
                        if iou >= iou_needed and iou > best:
                            best, which = iou, index
                hits.append(which is not None)
                if which is not None:
                    del truth[which]
            hits = np.array(hits)
            precisions.append((hits.cumsum() / np.arange(1, len(hits) + 1) * hits).sum() / max(count, 1))
        result.append(float(np.mean(precisions)))
    return result


def literal_figures(scores, labels) -> list[float]:
    """The figures of frame_metrics, each by scikit-learn on all frames."""
    s, y = np.concatenate(scores), np.concatenate(labels)
    anomalous = [i for i, label in enumerate(labels) if label.any()]
    sa, ya = np.concatenate([scores[i] for i in anomalous]), np.concatenate([labels[i] for i in anomalous])
    both = [i for i in anomalous if not labels[i].all()]
    fpr, tpr, _ = roc_curve(y, s)
    calm = np.concatenate([scores[i] for i in range(len(scores)) if not labels[i].any()])
    pooled = [roc_auc_score(y, s), average_precision_score(y, s), roc_auc_score(ya, sa), average_precision_score(ya, sa)]
    within = np.mean([roc_auc_score(labels[i], scores[i]) for i in both])
    bags = [np.sort(score)[::-1][: len(score) // 16 + 16].mean() for score in scores]
    by_video = roc_auc_score([label.any() for label in labels], bags)
    return [*pooled, within, tpr[fpr <= 0.01].max(), tpr[fpr <= 0.1].max(), (calm > 0.5).mean(), by_video]


def bench_metrics() -> None:
    """Official mAP and the intervals of the frame figures against literal versions, of which three resamples are timed."""
    folder = ROOT.parent / "shared" / "golden"
    for dataset in (UCF, XD):
        path = folder / f"map_{dataset.key}.npz"
        if not path.exists():
            raise BadInput(f"{path}: no such file; the bench measures on the full test sets that lie there")
        with np.load(path, allow_pickle=False) as z:
            probs = [np.repeat(part.astype(np.float64), 16, axis=0) for part in np.split(z["probs"], np.cumsum(z["lengths"])[:-1])]
            segments, names = ast.literal_eval(str(z["segments"])), ast.literal_eval(str(z["labels"]))
            classes = [str(c) for c in z["classes"]]
        labels = [np.zeros(len(prob), np.int64) for prob in probs]
        for label, parts, own in zip(labels, segments, names, strict=True):
            for (start, end), name in zip(parts, own, strict=True):
                label[start:end] |= name != WHOLE_VIDEO
        scores = [1 - prob[:, 0] for prob in probs]
        print(f"{dataset.title}: {len(probs)} videos, {sum(map(len, probs))} frames")

        start = time.perf_counter()
        expected = literal_map(probs, segments, names, classes)
        slow = time.perf_counter() - start
        both = seconds(lambda: [segment_map(probs, segments, names, classes, protocol) for protocol in PROTOCOLS], 3)  # noqa: B023
        ours = segment_map(probs, segments, names, classes)
        gap = max(abs(ours[iou] - value) for iou, value in zip(IOUS, expected, strict=True))
        print(f"mAP: both protocols {both:.2f} s, literal official {slow:.1f} s: {slow / both:.0f} times; differ by {gap:.1e}")

        start = time.perf_counter()
        drawn = resampled(frame_figures(scores, labels), len(probs))
        fast = time.perf_counter() - start
        start, gap = time.perf_counter(), 0.0
        for row, weight in zip(range(1, 4), itertools.islice(draws(len(probs)), 1, None), strict=False):
            chosen = np.repeat(np.arange(len(probs)), weight)
            values = literal_figures([scores[i] for i in chosen], [labels[i] for i in chosen])
            gap = max(gap, *(abs(drawn[name][row] - value) for name, value in zip(drawn, values, strict=True)))
        slow = (time.perf_counter() - start) / 3 * RESAMPLES
        print(
            f"{len(drawn)} intervals: {fast:.1f} s, literal {slow:.0f} s (3 of {RESAMPLES} timed): {slow / fast:.0f} times; "
            f"differ by {gap:.1e}"
        )

        truth = load_ground_truth(ROOT / "list" / f"{dataset.key}_gt.json", dataset)
        random = np.random.default_rng(0)
        noise = {name: random.dirichlet(np.ones(len(dataset.names)), -(-video.frames // SNIPPET)) for name, video in truth.items()}
        start = time.perf_counter()
        report.resample({name: Scores(1 - fine[:, 0], fine) for name, fine in noise.items()}, truth, dataset)
        frames = sum(video.frames for video in truth.values())
        print(f"every figure of a report on all {frames} frames, with intervals: {time.perf_counter() - start:.1f} s")


def bench_vadclip() -> None:
    """See tools/bench_vadclip.py, which imports this module."""
    from tools import bench_vadclip

    bench_vadclip.bench_vadclip()


def bench_mamba() -> None:
    """See tools/bench_mamba.py, which imports this module."""
    from tools import bench_mamba

    bench_mamba.bench_mamba()


def bench_extract() -> None:
    """See tools/bench_extract.py."""
    from tools import bench_extract

    bench_extract.bench_extract()


BENCHES = {"step": bench_step, "metrics": bench_metrics, "vadclip": bench_vadclip, "mamba": bench_mamba, "extract": bench_extract}


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"which: {', '.join(BENCHES)} (default: all)")
    names = parser.parse_args(argv).names or list(BENCHES)
    for name in names:
        if name not in BENCHES:
            raise BadInput(f"{name}: no such bench; expected {', '.join(BENCHES)}")
        print(f"== {name} ({torch.get_num_threads()} threads, torch {torch.__version__})")
        BENCHES[name]()


if __name__ == "__main__":
    sys.exit(exit_code(main))
