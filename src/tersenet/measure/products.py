"""Which operators multiply and accumulate, and how often, from the shapes of their arguments and results."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Product:
    """macs: multiply-accumulates, from arguments and result. factors: places of the arguments that are multiplied."""

    macs: Callable[[Sequence[Any], Any], int]
    factors: tuple[int, ...] = (0, 1)


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


def _summed_matrices(arguments: Sequence[Any], result: Any) -> int:
    """Σ_b [n, k]_b · [k, m]_b."""
    return int(math.prod(arguments[1].shape) * arguments[2].shape[-1])


def _entries(arguments: Sequence[Any], result: Any) -> int:
    return int(arguments[0].numel())


PRODUCTS: dict[str, Product] = {
    **dict.fromkeys(("mm", "bmm", "mv"), Product(_matrices)),
    **dict.fromkeys(("dot", "vdot"), Product(_entries)),
    **dict.fromkeys(("addmm", "_addmm_activation", "addmv", "baddbmm"), Product(_added_matrices, (1, 2))),
    "addbmm": Product(_summed_matrices, (1, 2)),
    **dict.fromkeys(("convolution", "convolution_overrideable", "_convolution"), Product(_convolution)),
    "_trilinear": Product(_bilinear, (0, 1, 2)),
    **dict.fromkeys(
        (
            "_scaled_dot_product_flash_attention",
            "_scaled_dot_product_flash_attention_for_cpu",
            "_scaled_dot_product_efficient_attention",
            "_scaled_dot_product_cudnn_attention",
            "_scaled_dot_product_fused_attention_overrideable",
        ),
        Product(_attention, (0, 1, 2)),
    ),
}

_OWN = ("aten", "prim", "prims")
_SUSPECT = re.compile(
    r"mm($|_)|matmul|conv(?!ert)|dot|(?<!_b)(?<!_tri)linear(?!\dd)|attention|attn|multi_head|transformer|rnn|lstm|gru|fft"
    r"|linalg(?!_vector_norm|_check)|solve|cdist|inverse|cholesky"
)


def is_unknown(namespace: str, name: str) -> bool:
    """Whether the operator may well multiply, and nothing here says how often: its name says so, or another library
    brought it."""
    return name not in PRODUCTS and (namespace not in _OWN or _SUSPECT.search(name) is not None)
