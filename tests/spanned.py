"""What spans a batch, of two processes and of one: a normalisation, bags that are compared, means, and their gradients.

python tests/spanned.py FOUND.pt          in each process, with torchrun's variables
"""

import sys
from pathlib import Path

import torch
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from utils import ranks
from utils.losses import magnitude_separability, mil_classification, text_separation


def span(x, own):
    """Losses and gradients of x (b, T, W), of which this process has a slice."""
    torch.manual_seed(0)
    norm = torch.nn.BatchNorm1d(4)
    torch.nn.init.normal_(norm.weight)
    x = x[own].clone().requires_grad_()
    visual = ranks.batch_norm(norm, x.transpose(1, 2)).transpose(1, 2) + ranks.batch_norm(norm, x.flatten(0, 1)).view_as(x)
    labels = F.one_hot(torch.arange(9)[own] % 2, 2).double()
    lengths = torch.arange(1, 10)[own]
    losses = {
        "magnitude": magnitude_separability(visual, labels, lengths, margin=3.0),
        "coarse": mil_classification(visual[..., 0], labels, lengths, logits=True),
        "text": text_separation(norm.weight[:, None] * torch.eye(4)),
    }
    sum(losses.values()).backward()
    ranks.sum_gradients(norm)
    whole = ranks.merged({int(length): row for length, row in zip(lengths, x.grad, strict=True)})
    rows = torch.stack([whole[number] for number in range(1, 10)])
    return [*ranks.summed(losses).values(), rows, norm.weight.grad, norm.bias.grad, norm.running_mean, norm.running_var]


def main():
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    torch.Tensor.float = torch.Tensor.double
    torch.manual_seed(1)
    x = torch.randn(9, 32, 4)
    with ranks.joined():
        from torch import _dynamo  # noqa: F401 - as an optimizer does: functions whose defaults are the group that is there

        first = ranks.rank() == 0
        found = [span(x, slice(0, 3) if first else slice(3, 9)), span(x, slice(0, 9) if first else slice(9, 9))]
    threads = {file.read_text().strip() for file in Path("/proc/self/task").glob("*/comm")}
    assert not any("gloo" in name for name in threads), threads  # they would outlive Python
    if first:
        torch.save([*found, span(x, slice(0, 9))], sys.argv[1])


if __name__ == "__main__":
    main()
