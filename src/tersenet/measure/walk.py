"""One forward pass, watched operator by operator as torch dispatches them: what each multiplies, reads and writes.

Every count and every estimate of this room is a sum over the `Operation`s of such a pass, so no kind of layer has to be
known by its class. Composite operators and fused layers (transformer, recurrent) arrive as what they are made of.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.utils import parametrize
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from tersenet.measure.operations import Operation, Pass, Weight, bytes_of
from tersenet.measure.products import PRODUCTS, is_unknown

Seen = list[tuple[int, torch.Tensor]]
"""Tensors with the numbers of their storages."""
GATHERS = ("embedding", "index_select", "gather", "index")
"""Read of their first argument only as much as they return."""


def walk(model: nn.Module, *inputs: Any) -> Pass:
    """Run `model(*inputs)` in eval mode, without gradients, and tell what ran; the model is left as it was.

    What a parametrization needs to form its weight is left out: it is computed once, not for each input. A tensor is a
    weight if it was there before (parameter, buffer, constant), or was computed from weights alone.
    """
    watcher = _Watcher(model)
    flags = {module: module.training for module in model.modules()}
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        model.eval()
        with torch.no_grad(), torch.random.fork_rng(), parametrize.cached(), _without_fused_layers():
            watcher.given(inputs)
            with _located(model, watcher), watcher:
                result = model(*inputs)
            watcher.returned(result)
    finally:
        for module, flag in flags.items():
            module.training = flag
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                buffer.copy_(buffers.get(name, buffer))
    return watcher.found


class _Watcher(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes each operator for the innermost module that is running."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found = Pass()
        self.running: list[str | None] = [""]  # names of the modules entered so far; None: forming a weight
        self.held: dict[int, Any] = {}  # keeps the numbers of storages that are gone from being used again
        self.weights: set[int] = set()
        self.spans: dict[int, list[tuple[int, int, int]]] = {}  # storage → (first entry, end, place in found.weights)
        self.made: set[int] = set()
        self.numbers: set[int] = set()  # written in the code, as the 1.0 of `where(w > 0, 1.0, 0.0)`
        self.holders: dict[int, str] = {}
        self.counted: dict[tuple[int, int, tuple[int, ...]], tuple[int, int]] = {}
        for name, module in model.named_modules():
            for key, tensor in (*module._parameters.items(), *module._buffers.items()):
                if tensor is not None:
                    self._hold(tensor, f"{name}.{key}".lstrip("."), key in module._parameters)
                    if type(module) is nn.Module:
                        self.holders.setdefault(self.storage(tensor), name)

    def _hold(self, tensor: torch.Tensor, name: str, parameter: bool) -> None:
        number = self.storage(tensor)
        self.weights.add(number)
        first = _offset(tensor)
        span = first, first + tensor.numel()
        spans = self.spans.setdefault(number, [])
        if not any((start, end) == span for start, end, _ in spans):
            spans.append((*span, len(self.found.weights)))
            self.found.weights.append(Weight(name, tensor.numel(), bytes_of(tensor), parameter))

    def _held(self, number: int, tensor: torch.Tensor) -> Iterator[int]:
        """Places of the weights that `tensor`, seen in storage `number`, is a part of."""
        first = _offset(tensor)
        last = first + max(tensor.numel(), 1)
        for start, end, place in self.spans.get(number, ()):
            if start <= first < end or first <= start < last:
                yield place

    def storage(self, tensor: torch.Tensor) -> int:
        """A number for the memory behind `tensor`, which views of it share."""
        try:
            storage = tensor.untyped_storage()
        except (NotImplementedError, RuntimeError):  # sparse, or of another library: as if it were dense
            self.held[id(tensor)] = tensor
            self.found.sizes[id(tensor)] = bytes_of(tensor)
            return id(tensor)
        reference = StorageWeakRef(storage)  # type: ignore[no-untyped-call]
        number = int(reference.cdata)
        self.held.setdefault(number, reference)
        if number not in self.found.given:  # an input may be a slice of a larger batch, which is not its concern
            self.found.sizes[number] = max(storage.nbytes(), self.found.sizes.get(number, 0))
        return number

    def given(self, inputs: Any) -> None:
        self.found.given = frozenset(map(self.storage, _tensors(inputs)))
        self.made |= self.found.given
        for tensor in _tensors(inputs):
            number = self.storage(tensor)
            self.found.sizes[number] = min(bytes_of(tensor), self.found.sizes[number])

    def returned(self, result: Any) -> None:
        self.found.returned = frozenset(map(self.storage, _tensors(result))) - self.weights

    def __torch_dispatch__(self, operator: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        name = operator.overloadpacket.__name__
        if name not in PRODUCTS:  # as in inference mode, where `linear` arrives whole
            with self:
                result = operator.decompose(*arguments, **(options or {}))
            if result is not NotImplemented:
                return result
        result = operator(*arguments, **(options or {}))
        self.note(operator, name, arguments, options, result)
        return result

    def note(self, operator: Any, name: str, arguments: Any, options: Any, result: Any) -> None:
        read = [(self.storage(tensor), tensor) for tensor in _tensors((arguments, options))]
        written = [(self.storage(tensor), tensor) for tensor in _tensors(result)]
        sources, results = {number for number, _ in read}, {number for number, _ in written}
        self._sort(sources, results - sources, written)
        layer, unknown = self.running[-1], is_unknown(operator.namespace, name)
        if layer is None:  # what it makes may be the weight that is formed
            for number, tensor in written:
                if number not in sources:
                    self._hold(tensor, "", parameter=True)
            return
        is_view = not results - sources and not operator._schema.is_mutable
        if name.startswith(("empty", "new_empty")) or (is_view and not unknown and name not in PRODUCTS):
            return  # nothing is computed
        macs = PRODUCTS[name].macs(arguments, result) if name in PRODUCTS else None if unknown else 0
        self.found.operations.append(
            Operation(
                layer=layer or self._holder(read, written),
                name=f"{operator.namespace}::{name}",
                macs=macs,
                nonzero=self._nonzero(name, macs, arguments) if macs else 0,
                reads=frozenset(sources - self.weights),
                writes=frozenset(results - self.weights),
                weights=frozenset(place for number, tensor in read for place in self._held(number, tensor)),
                weight_bytes=sum(_read(name, tensor, written) for number, tensor in read if number in self.weights),
                read_bytes=sum(_read(name, tensor, written) for number, tensor in read if number not in self.weights),
                written_bytes=sum(bytes_of(tensor) for number, tensor in written if number not in self.weights),
            )
        )

    def _sort(self, sources: set[int], new: set[int], written: Seen) -> None:
        """Which storages are weights: what nothing has made in this pass, and what is made from weights alone."""
        self.weights |= sources - self.made
        self.made |= new
        if not sources and all(tensor.ndim == 0 for _, tensor in written):
            self.numbers |= new
        known = sources - self.numbers
        if self.running[-1] is None or (known and known <= self.weights):
            self.weights |= new

    def _holder(self, read: Seen, written: Seen) -> str:
        """For an operator outside all layers: the module without a forward whose weight it reads, or the model."""
        found = next((self.holders[number] for number, _ in read if number in self.holders), "")
        if found:
            self.found.count(found, [tensor for _, tensor in written[:1]])
        return found

    def _nonzero(self, name: str, macs: int, arguments: Any) -> int:
        """Every entry of the weight takes part in equally many products, so they shrink by its share of zeros."""
        kept = macs
        for place in PRODUCTS[name].factors:
            tensor = arguments[place]
            number = self.storage(tensor)
            if number in self.weights and not tensor.is_meta:
                part = (number, tensor.storage_offset(), tuple(tensor.shape))
                if part not in self.counted:
                    self.counted[part] = int(torch.count_nonzero(tensor)), tensor.numel()
                nonzero, entries = self.counted[part]
                kept = min(kept, macs * nonzero // max(entries, 1))
        return kept

    def enter(self, name: str | None) -> None:
        """Whatever runs while a weight is formed belongs to forming it."""
        self.running.append(None if self.running[-1] is None else name)

    def leave(self, name: str | None, result: Any) -> None:
        if self.running.pop() is not None and name is not None:
            self.found.count(name, _tensors(result))


def _tensors(value: Any) -> list[torch.Tensor]:
    return [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, torch.Tensor)]


def _offset(tensor: torch.Tensor) -> int:
    return int(tensor.storage_offset()) if tensor.layout is torch.strided else 0


def _read(name: str, tensor: torch.Tensor, written: Seen) -> int:
    """Bytes of `tensor` that the operator reads; what was expanded without a copy is read once."""
    strided = tensor.layout is torch.strided
    stored = min(bytes_of(tensor), tensor.untyped_storage().nbytes()) if strided else bytes_of(tensor)
    return min(stored, sum(bytes_of(result) for _, result in written)) if name in GATHERS else stored


@contextmanager
def _located(model: nn.Module, watcher: _Watcher) -> Iterator[None]:
    """The watcher knows which module is running."""

    def enter(name: str | None) -> Callable[[nn.Module, Any], None]:
        return lambda module, arguments: watcher.enter(name)

    def leave(name: str | None) -> Callable[[nn.Module, Any, Any], None]:
        return lambda module, arguments, result: watcher.leave(name, result)

    handles = []
    for name, module in model.named_modules():
        label = None if isinstance(module, parametrize.ParametrizationList) else name
        handles.append(module.register_forward_pre_hook(enter(label), prepend=True))
        handles.append(module.register_forward_hook(leave(label)))
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
