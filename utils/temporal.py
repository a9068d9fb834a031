"""Temporal networks: what looks along the snippets of a video (ReFLIP-VAD eq. 1–7; table V).

B videos, T snippets, D feature width. Every module takes x (B, T, D) and mask (B, T), True = valid snippet, and gives (B, T, D);
what it gives at valid snippets does not depend on the padding, nor on how much of it there is.
"""

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from utils import ranks
from utils.errors import BadInput

SLOPE = 1.702  # of QuickGELU


def enter_autocast(x: Tensor) -> Tensor:
    """Cast once, at a model's door, not at each layer and back again."""
    return x.to(torch.get_autocast_dtype(x.device.type)) if torch.is_autocast_enabled(x.device.type) else x


class QuickGELU(nn.Module):
    """x · σ(1.702 x), written with SiLU, whose backward pass goes over memory once."""

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(SLOPE * x).mul_(1 / SLOPE)  # in place: SiLU's backward pass needs its input only


class FeedForward(nn.Sequential):
    """Two linear layers, named as in the released code (`c_fc`, `c_proj`)."""

    def __init__(self, width: int, hidden: int, activation: nn.Module, dropout: float = 0.0):
        super().__init__(
            OrderedDict(c_fc=nn.Linear(width, hidden), gelu=activation, dropout=ranks.Dropout(dropout), c_proj=nn.Linear(hidden, width))
        )

    def forward(self, x: Tensor) -> Tensor:
        if not isinstance(self.gelu, QuickGELU):
            return super().forward(x)
        # QuickGELU's two factors go into the weights: over the hidden layer, four times as wide, they would go over memory four times more.
        hidden = F.silu(F.linear(x, SLOPE * self.c_fc.weight, SLOPE * self.c_fc.bias))
        return F.linear(self.dropout(hidden), self.c_proj.weight / SLOPE, self.c_proj.bias)


def to_windows(x: Tensor, size: int) -> Tensor:
    """(B, T, ...) -> (B * ceil(T / size), size, ...), zero-padded (False in a mask)."""
    missing = -x.shape[1] % size
    x = torch.cat([x, x.new_zeros(x.shape[0], missing, *x.shape[2:])], 1) if missing else x
    return x.reshape(-1, size, *x.shape[2:])


def from_windows(x: Tensor, batch: int, length: int) -> Tensor:
    """Undo `to_windows`: (B * windows, size, ...) -> (B, T, ...)."""
    size = x.shape[1]
    return x.reshape(batch, -(-length // size) * size, *x.shape[2:])[:, :length]


class ResidualAttentionBlock(nn.Module):
    """VadCLIP's pre-LN block; parameters named as in the released code."""

    def __init__(self, width: int, heads: int, dropout: float = 0.0):
        super().__init__()
        if width % heads:
            raise BadInput(f"--visual-head {heads}: expected a divisor of --visual-width {width}")
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = FeedForward(width, 4 * width, QuickGELU(), dropout)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        if mask is not None:
            mask = (mask | ~mask.any(1, keepdim=True))[:, None, None]  # a window of padding only attends to itself: no 0 divided by 0
        # What self.attn(…) computes, without its copies: the kernel takes the three projections as they lie.
        qkv = F.linear(self.ln_1(x), self.attn.in_proj_weight, self.attn.in_proj_bias).unflatten(-1, (3, self.attn.num_heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (B, heads, T, D / heads) each
        x = x + self.attn.out_proj(F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2))
        return x + self.mlp(self.ln_2(x))


def position_embeddings(length: int, width: int) -> nn.Embedding:
    """Learned positions (length, width), N(0, 0.01) as in VadCLIP."""
    embeddings = nn.Embedding(length, width)
    nn.init.normal_(embeddings.weight, std=0.01)
    return embeddings


class TemporalTransformer(nn.Module):
    """Local (`window` snippets) or global (`window` None) transformer; windows are computed as windows, not as a masked T × T. Positions
    are learned for `length` snippets; None leaves them to the caller.
    """

    def __init__(self, width: int, *, layers: int, heads: int, length: int | None, window: int | None, dropout: float = 0.0):
        super().__init__()
        self.window = window
        self.frame_position_embeddings = None if length is None else position_embeddings(length, width)
        self.resblocks = nn.ModuleList(ResidualAttentionBlock(width, heads, dropout) for _ in range(layers))

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """mask None: all snippets are valid."""
        batch, length = x.shape[:2]
        if self.frame_position_embeddings is not None:
            x = x + self.frame_position_embeddings.weight[:length]
        size = self.window or length
        if mask is None and length % size:
            mask = x.new_ones(batch, length, dtype=torch.bool)
        x, mask = to_windows(x, size), None if mask is None else to_windows(mask, size)
        for block in self.resblocks:
            x = block(x, mask)
        return from_windows(x, batch, length)


class GraphConvolution(nn.Module):
    """adjacency · x · W plus a residual (a five-wide convolution where the widths differ), as in VadCLIP."""

    def __init__(self, width: int, out: int):
        super().__init__()
        self.weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(width, out)))
        self.residual = nn.Identity() if width == out else nn.Conv1d(width, out, 5, padding=2)

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        return adjacency @ (x @ self.weight) + self.residual(x.transpose(1, 2)).transpose(1, 2)


def similarity_adjacency(x: Tensor, mask: Tensor, threshold: float = 0.7) -> Tensor:
    """Cosine similarity (B, T, T), values below `threshold` set to 0, for each valid snippet a softmax over the valid ones (zeros keep
    weight); 0 outside. (Released code: softmax over dim 1 of each video's own (T, T).)
    """
    x = F.normalize(x, dim=-1)
    cosine = x @ x.transpose(1, 2)
    cosine = torch.where(cosine > threshold, cosine, 0)
    block = mask[:, :, None] & mask[:, None]
    return cosine.masked_fill(~mask[:, None], -torch.inf).softmax(2) * block


def distance_adjacency(length: int, like: Tensor) -> Tensor:
    """exp(−|i−j|/e), (T, T), not normalised."""
    index = torch.arange(length, device=like.device, dtype=torch.float32)
    return torch.exp(-(index[:, None] - index).abs() / torch.e).to(like.dtype)


class GCN(nn.Module):
    """Two pairs of graph convolutions, one on similarity, one on distance, side by side (VadCLIP). Padding is masked, or with `leak` stays
    out of the similarity only, as published.
    """

    def __init__(self, width: int):
        super().__init__()
        half = width // 2
        self.gc1, self.gc2 = GraphConvolution(width, half), GraphConvolution(half, half)
        self.gc3, self.gc4 = GraphConvolution(width, half), GraphConvolution(half, half)
        self.gelu, self.linear = QuickGELU(), nn.Linear(2 * half, width)

    def forward(self, x: Tensor, mask: Tensor, leak: bool = False) -> Tensor:
        def valid(y: Tensor) -> Tensor:
            return y if leak else y * mask[..., None]

        x = valid(x)
        similarity, distance = similarity_adjacency(x, mask).to(x.dtype), distance_adjacency(x.shape[1], x)
        near = self.gelu(self.gc2(valid(self.gelu(self.gc1(x, similarity))), similarity))
        far = self.gelu(self.gc4(valid(self.gelu(self.gc3(x, distance))), distance))
        return self.linear(torch.cat([near, far], -1))


class LocalGraph(GCN):
    """VadCLIP's temporal part: positions, local transformer, then the graph convolutions; parameters named as in the authors' checkpoints.

    mask_padding False is as published: zero rows behind a video's end get positions and reach its snippets through windows, convolutions
    and distance. What it gives then depends on how many there are.
    """

    def __init__(self, width: int, *, length: int, layers: int, heads: int, attn_window: int, dropout: float = 0.0, mask_padding: bool):
        super().__init__(width)
        self.mask_padding = mask_padding
        self.frame_position_embeddings = position_embeddings(length, width)
        self.temporal = TemporalTransformer(width, layers=layers, heads=heads, length=None, window=attn_window, dropout=dropout)

    def encode(self, x: Tensor, mask: Tensor) -> Tensor:
        """x (B, T, D), mask (B, T) -> (B, T, D)."""
        x = x + self.frame_position_embeddings.weight[: x.shape[1]]
        x = self.temporal(x, mask if self.mask_padding else None)
        return super().forward(x, mask, leak=not self.mask_padding)
