"""A layer as a chain of ordinary layers: their kinds, sizes and order; what their weights are is for others to say."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import prod
from typing import Any

from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils import skip_init
from torch.nn.utils.parametrize import is_parametrized

from tersenet.core.change import CHANGES
from tersenet.core.errors import ModelError
from tersenet.graph.edits import put

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
PLAIN = (nn.Linear, nn.Embedding, *CONVOLUTIONS)

Ranks = tuple[int, ...]


def obstacle(module: nn.Module, kind: str) -> str | None:
    """Why `module` cannot become factors of this kind; None if it can. Classes derived from torch's own are taken if
    they keep the forward."""
    forward = type(module).forward
    if not any(isinstance(module, cls) and forward is cls.forward for cls in PLAIN):
        return (
            f"a {type(module).__name__} is no linear layer, embedding or convolution of torch.nn that could be replaced"
        )
    if _burdened(module):
        return "what hangs on it (a parametrization, a hook, a grid for its input) would be lost; factorise first"
    if isinstance(module, nn.Embedding) and module.max_norm is not None:
        return "it scales its rows to 'max_norm', which needs whole rows"
    if kind != "svd" and not isinstance(module, CONVOLUTIONS):
        return f"'{kind}' takes convolutions; say 'svd' for a {type(module).__name__}"
    if kind in ("spatial", "cp") and not (isinstance(module, nn.Conv2d) and max(module.kernel_size) > 1):
        return f"'{kind}' takes two-dimensional convolutions whose kernel is larger than 1×1"
    if kind == "depthwise" and prod(shape_of(module)[2:]) == 1:
        return "its kernel is 1×1, which is what comes after a depthwise convolution"
    if isinstance(module, _ConvNd) and module.in_channels == module.groups > 1:
        return "it is a depthwise convolution, which mixes no channels"
    return None


def _burdened(module: nn.Module) -> bool:
    """Whether something hangs on it, other than a form of its weight."""
    lists: Any = module.parametrizations if is_parametrized(module) else ()
    inside = [name for name, _ in module.named_children() if name != "parametrizations"]
    return bool(inside or module._forward_pre_hooks or module._forward_hooks or set(lists) - {"weight"})


def shape_of(module: nn.Module) -> tuple[int, ...]:
    """Sizes of the weight: (outputs, inputs), (rows, columns) of an embedding, (outputs, inputs, *kernel) of one group
    of a convolution. From the module's integers, since the weight may not have been cut to them yet."""
    if isinstance(module, nn.Linear):
        return module.out_features, module.in_features
    if isinstance(module, nn.Embedding):
        return module.num_embeddings, module.embedding_dim
    assert isinstance(module, _ConvNd)
    return module.out_channels // module.groups, module.in_channels // module.groups, *module.kernel_size


def largest(kind: str, shape: Sequence[int]) -> Ranks:
    """The ranks from which on factors of this kind can be exact, for a weight (of one group) of this shape."""
    outputs, inputs, *kernel = shape
    places = prod(kernel)
    if kind == "channel":
        return (min(inputs, outputs * places),)
    if kind == "spatial":
        return (min(inputs * kernel[0], outputs * kernel[1]),)
    if kind == "tucker":
        return min(outputs, inputs * places), min(inputs, outputs * places)
    if kind == "cp":
        return (prod(shape) // max(shape),)
    if kind == "depthwise":
        return (min(outputs, places),)
    return (min(outputs, inputs * places),)


class Factors(nn.Sequential):
    """A chain that stands for one layer."""

    stands_for_layer = True  # so that its weights answer to that layer's name, too


def factored(module: nn.Module, kind: str, ranks: Ranks) -> Factors:
    """The factors of `module`, of its type and on its device, with values undefined but for the bias, which the last
    one takes over.

    svd: [K × inputs], [outputs × K]; of an embedding a look-up of K numbers and a linear layer; of a convolution its
        own window to K channels and then 1×1. channel: 1×1 to K channels, then the window. spatial: k×1, 1×k. cp: 1×1,
        depthwise k×1, depthwise 1×k, 1×1. tucker: 1×1, the window, 1×1; ranks are those of outputs and inputs.
        depthwise: the window, K times for each input channel, and 1×1.
    Of a grouped convolution every group has its own factors, each of these ranks.

    Raises ModelError where kind or ranks do not fit.
    """
    if (reason := obstacle(module, kind)) is not None:
        raise ModelError(f"cannot be factorised: {reason}")
    most = largest(kind, shape_of(module))
    if len(ranks) != len(most) or any(not 0 < rank <= limit for rank, limit in zip(ranks, most, strict=True)):
        raise ModelError(f"cannot have factors of rank {spelt(ranks)}: it has rank {spelt(most)} at most")
    layers = list(_LAYERS[kind](module, *ranks))
    last: Any = layers[-1]
    last.bias = getattr(module, "bias", None)
    learned = bool(module.weight.requires_grad)
    for layer in layers:
        layer.weight.requires_grad_(learned)  # type: ignore[union-attr, operator]
    return Factors(*layers).train(module.training)


def spelt(ranks: Ranks) -> str:
    """(8,) → '8'; (8, 4) → '8 and 4'."""
    return " and ".join(map(str, ranks))


def _svd(module: nn.Module, rank: int) -> list[nn.Module]:
    if isinstance(module, nn.Linear):
        return [_new(module, nn.Linear, module.in_features, rank), _new(module, nn.Linear, rank, module.out_features)]
    if isinstance(module, nn.Embedding):
        how = {name: getattr(module, name) for name in ("padding_idx", "scale_grad_by_freq", "sparse")}
        rows = _unset(nn.Embedding, module.num_embeddings, rank, **how, **_kind(module))
        return [rows, _new(module, nn.Linear, rank, module.embedding_dim)]
    assert isinstance(module, _ConvNd)
    inner = rank * module.groups
    return [_conv(module, module.in_channels, inner, window=True), _conv(module, inner, module.out_channels)]


def _channel(module: _ConvNd, rank: int) -> list[nn.Module]:
    inner = rank * module.groups
    return [_conv(module, module.in_channels, inner), _conv(module, inner, module.out_channels, window=True)]


def _spatial(module: _ConvNd, rank: int) -> list[nn.Module]:
    inner = rank * module.groups
    return [_conv(module, module.in_channels, inner, (0,)), _conv(module, inner, module.out_channels, (1,))]


def _cp(module: _ConvNd, rank: int) -> list[nn.Module]:
    inner = rank * module.groups
    return [
        _conv(module, module.in_channels, inner),
        _conv(module, inner, inner, (0,), groups=inner),
        _conv(module, inner, inner, (1,), groups=inner),
        _conv(module, inner, module.out_channels),
    ]


def _tucker(module: _ConvNd, outputs: int, inputs: int) -> list[nn.Module]:
    after, before = outputs * module.groups, inputs * module.groups
    return [
        _conv(module, module.in_channels, before),
        _conv(module, before, after, window=True),
        _conv(module, after, module.out_channels),
    ]


def _depthwise(module: _ConvNd, rank: int) -> list[nn.Module]:
    inner = rank * module.in_channels
    return [
        _conv(module, module.in_channels, inner, window=True, groups=module.in_channels),
        _conv(module, inner, module.out_channels),
    ]


_LAYERS: dict[str, Callable[..., list[nn.Module]]] = {
    "svd": _svd,
    "channel": _channel,
    "spatial": _spatial,
    "cp": _cp,
    "tucker": _tucker,
    "depthwise": _depthwise,
}

RANKS = dict.fromkeys(_LAYERS, ("rank",)) | {"tucker": ("outputs", "inputs")}
"""kind → what its ranks are called in the options of a change."""


def _kind(module: nn.Module) -> dict[str, Any]:
    weight: Any = module.weight
    return {"device": weight.device, "dtype": weight.dtype}


def _unset(cls: type[nn.Module], *sizes: Any, **options: Any) -> nn.Module:
    """A layer without initial values, for which no random numbers are drawn."""
    made: nn.Module = skip_init(cls, *sizes, **options)  # type: ignore[no-untyped-call]
    return made


def _new(like: nn.Module, cls: type[nn.Linear], inputs: int, outputs: int) -> nn.Module:
    return _unset(cls, inputs, outputs, bias=False, **_kind(like))


def _conv(
    like: _ConvNd,
    inputs: int,
    outputs: int,
    axes: tuple[int, ...] = (),
    *,
    window: bool = False,
    groups: int | None = None,
) -> nn.Module:
    """A convolution that has kernel, stride, padding and dilation of `like` along `axes` (all of them with `window`),
    and is 1×1 along the others."""
    rank = len(like.kernel_size)
    axes = tuple(range(rank)) if window else axes

    def along(values: Sequence[int], other: int) -> tuple[int, ...]:
        return tuple(value if axis in axes else other for axis, value in enumerate(values))

    margins: Any = like.padding
    cls = next(cls for cls in CONVOLUTIONS if isinstance(like, cls))
    return _unset(
        cls,
        inputs,
        outputs,
        along(like.kernel_size, 1),
        stride=along(like.stride, 1),
        padding=margins if isinstance(margins, str) else along(margins, 0),  # 'same' and 'valid' fit a 1×1 as well
        dilation=along(like.dilation, 1),
        groups=groups or like.groups,
        bias=False,
        padding_mode=like.padding_mode,
        **_kind(like),
    )


def _put_factors(kind: str, model: nn.Module, path: str, options: Mapping[str, int]) -> None:
    old = dict(model.named_modules(remove_duplicate=False)).get(path)
    if old is None or not path:
        raise ModelError(f"'{path}' is to become factors, but the model has no such layer: it is another")
    if set(options) != set(RANKS[kind]):
        raise ModelError(
            f"'{path}' cannot become factors of kind '{kind}' by {', '.join(sorted(options)) or 'nothing'}"
        )
    try:
        new = factored(old, kind, tuple(options[name] for name in RANKS[kind]))
    except ModelError as error:
        raise ModelError(f"'{path}' {error}") from None
    put(model, old, new)


for _name in _LAYERS:
    CHANGES.register(f"{_name}_factors")(partial(_put_factors, _name))
