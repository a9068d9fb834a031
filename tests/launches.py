"""What a piece of work asks of a device: operators one by one, counted without one."""

import contextlib
from collections import Counter

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

FREE = ("prim::", "aten::empty", "aten::new_empty", "aten::detach", "aten::_unsafe_view", "aten::unbind", "aten::split", "aten::lift_fresh")
STOPS = ("aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::is_nonzero", "aten::equal")


class Operators(TorchDispatchMode):
    """Counts operators that launch something (all but views and bare allocations), and those for whose result a GPU's host would wait:
    a number read, an index by mask, whose size is not known before, and a tensor made from numbers of the host.
    """

    def __init__(self):
        super().__init__()
        self.launches, self.stops = Counter(), Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.name()
        if not function.is_view and not name.startswith(FREE):
            self.launches[name] += 1
        indices = [part for part in args[1] if part is not None] if name.startswith("aten::index") and isinstance(args[1], list) else []
        by_mask = any(part.dtype == torch.bool for part in indices)
        if name in STOPS or by_mask or name == "aten::lift_fresh":
            self.stops[name] += 1
        return function(*args, **(kwargs or {}))


@contextlib.contextmanager
def unreal(model: nn.Module):
    """The model's tensors have shapes in this block, and no values, so that nothing is computed and sizes do not matter."""
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        for module in model.modules():
            for name, value in module._parameters.items():
                if value is not None:
                    module._parameters[name] = nn.Parameter(mode.from_tensor(value.data), value.requires_grad)
            for name, value in module._buffers.items():
                if value is not None:
                    module._buffers[name] = mode.from_tensor(value)
        yield
