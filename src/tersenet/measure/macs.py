"""Multiply-accumulates of one forward pass, counted operator by operator as torch dispatches them.

Counted: matrix products, convolutions (grouped, dilated and transposed too), scaled dot-product attention and the
gates of recurrent cells. A look-up in an embedding costs none. Everything without such a product (adding a bias,
activations, norms, pooling) counts zero, as in the published totals. An operator whose name says that it is a product
and that is not known here is reported as unknown, not as zero.
"""

from __future__ import annotations

import math
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.utils._python_dispatch import TorchDispatchMode


@dataclass(frozen=True)
class Macs:
    """total: of the whole pass. layers: of each module that computes products itself, by its name ('' is the model).

    unknown: operator → how often it ran. If there are any, `total` is too small by what they cost.
    """

    total: int
    layers: dict[str, int] = field(default_factory=dict)
    unknown: dict[str, int] = field(default_factory=dict)


def count_macs(model: nn.Module, *inputs: Any) -> Macs:
    """Multiply-accumulates of `model(*inputs)` in eval mode; the model is left as it was.

    With one input the batch axis should be 1 for the cost of one example. Products that a parametrization needs to
    form its weight are left out: they are computed once, not for each input.
    """
    counter = _Counter()
    flags = {module: module.training for module in model.modules()}
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        model.eval()
        with torch.no_grad(), torch.random.fork_rng(), _located(model, counter), _without_fused_layers(), counter:
            model(*inputs)
    finally:
        for module, flag in flags.items():
            module.training = flag
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                buffer.copy_(buffers.get(name, buffer))
    layers = {name: macs for name, macs in counter.layers.items() if macs}
    return Macs(sum(layers.values()), layers, dict(counter.unknown))


def nonzero_macs(model: nn.Module, macs: Macs) -> int:
    """Those of `macs` whose weight in `model` is not zero. It says nothing about time.

    Each weight of a layer takes part in equally many products, so the layer's count shrinks by its share of nonzero
    weights. Products of a layer without weights (attention written out in a forward) count in full.
    """
    modules = dict(model.named_modules())
    return sum(_share(count, modules.get(name), name, macs.layers) for name, count in macs.layers.items())


def _share(count: int, module: nn.Module | None, name: str, layers: Mapping[str, int]) -> int:
    if module is None:
        return count
    kept, total = 0, 0
    for weight in _weights(module, name, layers):
        kept, total = kept + int(torch.count_nonzero(weight)), total + weight.numel()
    return count * kept // total if total else count


def _weights(module: nn.Module, name: str, layers: Mapping[str, int]) -> Iterator[torch.Tensor]:
    """Weights of the module, and of modules in it that do not count for themselves (`out_proj` of attention)."""
    own = [key for key, parameter in module.named_parameters(recurse=False) if parameter.ndim >= 2]
    if isinstance(module, parametrize.ParametrizationList):
        return
    yield from (getattr(module, key) for key in [*own, *_parametrized(module)])
    for child_name, child in module.named_children():
        full = f"{name}.{child_name}" if name else child_name
        if name and full not in layers and child_name != "parametrizations":
            yield from _weights(child, full, layers)


def _parametrized(module: nn.Module) -> list[str]:
    if not parametrize.is_parametrized(module):
        return []
    return [key for key in module.parametrizations if getattr(module, key).ndim >= 2]  # type: ignore[union-attr]


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds each operator's products to the innermost module that is running."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.layers: Counter[str] = Counter()
        self.unknown: Counter[str] = Counter()
        self.running: list[str | None] = [""]  # names of the modules entered so far; None: forming a weight

    def __torch_dispatch__(self, operator: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        name = operator.overloadpacket.__name__
        if name not in PRODUCTS:  # as in inference mode, where `linear` arrives whole
            with self:
                result = operator.decompose(*arguments, **(options or {}))
            if result is not NotImplemented:
                return result
        result = operator(*arguments, **(options or {}))
        layer = self.running[-1]
        if layer is not None and name in PRODUCTS:
            self.layers[layer] += PRODUCTS[name](arguments, result)
        elif layer is not None and (operator.namespace not in OWN or SUSPECT.search(name)):
            self.unknown[f"{operator.namespace}::{name}"] += 1
        return result


@contextmanager
def _located(model: nn.Module, counter: _Counter) -> Iterator[None]:
    """The counter knows which module is running."""

    def enter(name: str | None) -> Callable[[nn.Module, Any], None]:
        """Whatever runs while a weight is formed belongs to forming it."""
        return lambda module, arguments: counter.running.append(None if counter.running[-1] is None else name)

    def leave(module: nn.Module, arguments: Any, result: Any) -> None:
        counter.running.pop()

    handles = []
    for name, module in model.named_modules():
        label = None if isinstance(module, parametrize.ParametrizationList) else name
        handles.append(module.register_forward_pre_hook(enter(label), prepend=True))
        handles.append(module.register_forward_hook(leave))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _without_fused_layers() -> Iterator[None]:
    """Transformer layers and recurrent layers as the operators they are made of, not as one."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with _silently(torch.backends.mkldnn.flags(enabled=False)), torch.backends.cudnn.flags(enabled=False):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


@contextmanager
def _silently(context: AbstractContextManager[Any]) -> Iterator[None]:
    """Without the warning about Intel GPUs that touching this setting brings up on some machines."""
    with ExitStack() as stack:
        with warnings.catch_warnings(action="ignore"):
            stack.enter_context(context)
        yield
        with warnings.catch_warnings(action="ignore"):
            stack.close()


def _matrices(arguments: Sequence[Any], result: Any) -> int:
    """[n, k] · [k, m]: every entry of the result is a sum of k products."""
    return int(result.numel()) * int(arguments[0].shape[-1])


def _added_matrices(arguments: Sequence[Any], result: Any) -> int:
    return _matrices(arguments[1:], result)


def _convolution(arguments: Sequence[Any], result: Any) -> int:
    """Arguments are (input, weight [out, in/groups, …], bias, stride, padding, dilation, transposed, …).

    Every entry of the result sums one product per entry of a filter; transposed, every entry of the input is
    multiplied with every entry of its filter, weight [in, out/groups, …].
    """
    filter_size = math.prod(arguments[1].shape[1:])
    return int((arguments[0] if arguments[6] else result).numel() * filter_size)


def _attention(arguments: Sequence[Any], result: Any) -> int:
    """Q [B, H, L, E] Kᵀ, then the weights [L, S] times V [B, H, S, F]; masked entries count as well."""
    query, key, value = (tensor.shape for tensor in arguments[:3])
    return int(math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1]))


def _bilinear(arguments: Sequence[Any], result: Any) -> int:
    """Σ_ij x_i W_kij y_j: one product with each W_kij for each entry of the result, as the weight is counted."""
    return int(result.numel() * math.prod(arguments[1].shape[-2:]))


PRODUCTS: dict[str, Callable[[Sequence[Any], Any], int]] = {
    "mm": _matrices,
    "bmm": _matrices,
    "mv": _matrices,
    "dot": lambda arguments, result: int(arguments[0].numel()),
    "vdot": lambda arguments, result: int(arguments[0].numel()),
    "addmm": _added_matrices,
    "_addmm_activation": _added_matrices,
    "addmv": _added_matrices,
    "baddbmm": _added_matrices,
    "addbmm": lambda arguments, result: math.prod(arguments[1].shape) * int(arguments[2].shape[-1]),
    "convolution": _convolution,
    "convolution_overrideable": _convolution,
    "_convolution": _convolution,
    "_trilinear": _bilinear,
    "_scaled_dot_product_flash_attention": _attention,
    "_scaled_dot_product_flash_attention_for_cpu": _attention,
    "_scaled_dot_product_efficient_attention": _attention,
    "_scaled_dot_product_cudnn_attention": _attention,
    "_scaled_dot_product_fused_attention_overrideable": _attention,
}
OWN = ("aten", "prim", "prims")
SUSPECT = re.compile(
    r"mm($|_)|matmul|conv(?!ert)|dot|(?<!_b)(?<!_tri)linear(?!\dd)|attention|attn|multi_head|transformer|rnn|lstm|gru|fft"
    r"|linalg(?!_vector_norm|_check)|solve|cdist|inverse|cholesky"
)
