"""A pretend CUDA device for machines without one: tensors that say they are on `cuda:0`, computed on the CPU.

    with pretend_cuda() as gpus:
        engine = TorchEngine(model, sentences, device="cuda")
        engine.clean()  # what it is on the CPU; a tensor that was forgotten there raises
    with pretend_cuda(count=2, memory=10**6):  # cuda:0 and cuda:1, of a megabyte each
        ...

Tensors on it are a subclass, and a mode sees every call of PyTorch, those that make tensors included. What stays on the
CPU by mistake, or is made there, raises as on a GPU; the rules are PyTorch's own:

- the tensors of a call are on one device, `out=`, those of a `torch.cat` and of `torch.equal` among them; but where a
  call is elementwise, a 0-dimensional CPU tensor may go with CUDA ones;
- CPU indices may index a CUDA tensor, CUDA indices no CPU tensor;
- `.numpy()` of a CUDA tensor raises; `.item()`, `.tolist()`, `.cpu()` and `.to("cpu")` bring it back;
- what is moved is copied; what is drawn on a device needs a generator of that device; a device has to be there.

`memory` limits the bytes that live on each device: a result that would exceed it raises `torch.OutOfMemoryError`. What
a call needs for a while within itself is not counted. Numbers and speed are the CPU's, so it says nothing of CUDA's
arithmetic, kernels or time. Gradients are not kept, `.cuda()` is not known, and rust_circuit does not run on it.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, NoReturn

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

CPU = torch.device("cpu")
MOVES = {"to", "cpu", "copy_"}
INDEXES = {"__getitem__", "__setitem__", "index_put", "index_put_"}
NOT_ELEMENTWISE = {"cat", "stack", "equal", "index_select", "gather", "index_add_", "__set__"}
IN_PLACE = {"__iadd__", "__isub__", "__imul__", "__itruediv__", "__ipow__", "__iand__", "__ior__"}


@dataclass
class Gpus:
    """The pretend devices: how many there are, and the bytes that live on each."""

    count: int
    memory: int | None
    current: int = 0
    peak: int = 0
    """The most bytes that have lived on one."""
    held_when_emptied: list[int] = field(default_factory=list)
    """The bytes that lived on the current one each time that the cache was emptied."""
    held: Counter[int] = field(default_factory=Counter)
    """The bytes that live on each."""
    tensors: Counter[tuple[int, int]] = field(default_factory=Counter)
    """Those that live, by device and the address of what they hold."""

    def place(self, device: str | int | torch.device) -> torch.device:
        """A device with its index. Raises RuntimeError, as PyTorch does, if it is not there."""
        found = torch.device("cuda", device) if isinstance(device, int) else torch.device(device)
        if found.type != "cuda":
            return found
        index = self.current if found.index is None else found.index
        if index >= self.count:
            raise RuntimeError("CUDA error: invalid device ordinal")
        return torch.device("cuda", index)

    def hold(self, tensor: OnCuda) -> None:
        """Count what a new tensor holds for as long as it lives. Raises `OutOfMemoryError` if it does not fit."""
        storage, index = tensor.untyped_storage(), tensor.place.index
        key, size = (index, storage.data_ptr()), storage.nbytes()
        if key not in self.tensors:
            if self.memory is not None and self.held[index] + size > self.memory:
                raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {size} bytes on GPU {index}.")
            self.held[index] += size
            self.peak = max(self.peak, self.held[index])
        self.tensors[key] += 1
        weakref.finalize(tensor, self._release, key, size).atexit = False

    def _release(self, key: tuple[int, int], size: int) -> None:
        self.tensors[key] -= 1
        if not self.tensors[key]:
            del self.tensors[key]
            self.held[key[0]] -= size


class OnCuda(torch.Tensor):
    """A tensor that says that it is on a CUDA device."""

    gpus: ClassVar[Gpus] = Gpus(1, None)  # those that are there now
    place: torch.device

    @property
    def device(self) -> torch.device:
        return self.place

    @property
    def is_cuda(self) -> bool:
        return True

    def get_device(self) -> int:
        return self.place.index

    def numpy(self, *_: object, **__: object) -> NoReturn:
        raise TypeError(f"can't convert {self.place} device type tensor to numpy. Use Tensor.cpu() first.")

    __array__ = numpy

    def __iter__(self) -> Iterator[torch.Tensor]:
        return iter(self.unbind(0))

    def __deepcopy__(self, memo: dict[int, Any]) -> torch.Tensor:
        memo[id(self)] = self.clone()
        return memo[id(self)]

    def __repr__(self, **_: object) -> str:
        return f"{self.cpu()!r} on {self.place}"

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: object, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return _called(func, args, kwargs or {})


class _Mode(TorchFunctionMode):
    """Sees the calls that no tensor of the subclass takes part in."""

    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return _called(func, args, kwargs or {})


def _called(func: Callable[..., Any], args: Any, kwargs: Mapping[str, Any]) -> Any:
    """What a call of PyTorch gives, on the device where it gives it."""
    name: str = getattr(func, "__name__", "")
    tensors = [*_tensors(args), *_tensors([*kwargs.values()])]
    places = {each.place for each in tensors if isinstance(each, OnCuda)}
    place = _place_asked_for(name, args, kwargs)
    if not places and (place is None or place.type != "cuda"):
        return func(*args, **kwargs)
    if places and name not in MOVES:
        _check_together(name, args, kwargs, tensors, places)
    if place is None:
        place = args[0].device if name in INDEXES | MOVES else places.pop()
    if (generator := kwargs.get("generator")) is not None and generator.device.type != place.type:
        raise RuntimeError(f"Expected a '{place.type}' device type for generator but found '{generator.device.type}'")
    moved = args[0] if name in MOVES and args[0].device != place else None
    with torch._C.DisableTorchFunctionSubclass():
        if name == "to":
            args = (args[0], *(CPU if _is_device(each) else each for each in args[1:]))
        if "device" in kwargs:
            kwargs = {**kwargs, "device": CPU}
        found = func(*args, **kwargs)
        if isinstance(found, torch.Tensor):
            return _on(found, place, moved)
        return tree_map(lambda each: _on(each, place, moved) if isinstance(each, torch.Tensor) else each, found)


def _tensors(given: tuple[Any, ...] | list[Any]) -> list[torch.Tensor]:
    """The tensors among arguments, and in lists of them."""
    found = []
    for each in given:
        if isinstance(each, torch.Tensor):
            found.append(each)
        elif isinstance(each, tuple | list):
            found += _tensors(each)
    return found


def _on(tensor: torch.Tensor, place: torch.device, moved: torch.Tensor | None) -> torch.Tensor:
    """A result where it is; if it is what was `moved` there, a copy."""
    if isinstance(tensor, OnCuda) and tensor.place == place:
        return tensor
    if moved is not None and tensor.data_ptr() == moved.data_ptr():
        tensor = tensor.clone()
    if place.type != "cuda":
        return tensor.as_subclass(torch.Tensor)
    on_cuda = torch.Tensor._make_subclass(OnCuda, tensor)
    on_cuda.place = place
    OnCuda.gpus.hold(on_cuda)
    return on_cuda


def _place_asked_for(name: str, args: Any, kwargs: Mapping[str, Any]) -> torch.device | None:
    """The device that a call names, if it names one."""
    if name == "cpu":
        return CPU
    given = [*args[1:], kwargs.get("device")] if name == "to" else [kwargs.get("device")]
    like = [each.device for each in given if isinstance(each, torch.Tensor)]
    named = [OnCuda.gpus.place(each) for each in given if _is_device(each)]
    return next(iter([*like, *named]), None)


def _is_device(given: object) -> bool:
    return isinstance(given, str | torch.device) or (isinstance(given, int) and not isinstance(given, bool))


def _check_together(
    name: str, args: Any, kwargs: Mapping[str, Any], tensors: list[torch.Tensor], places: set[torch.device]
) -> None:
    """Raise RuntimeError, as PyTorch does, if the tensors of a call are on devices that do not go together."""
    on_cpu = [each for each in tensors if not isinstance(each, OnCuda)]
    if len(places) > 1:
        wrong = tensors
    elif name in INDEXES:
        wrong = _wrong_to_index(name, args, tensors)
    else:
        is_in_place = name in IN_PLACE or (name.endswith("_") and not name.endswith("__"))
        written = [kwargs.get("out"), args[0] if is_in_place else None]
        wrong = [each for each in on_cpu if each.dim() or name in NOT_ELEMENTWISE or any(each is it for it in written)]
    if wrong:
        found = ", ".join(sorted({str(each.device) for each in tensors}))
        raise RuntimeError(f"{name}: Expected all tensors to be on the same device, but found {found}")


def _wrong_to_index(name: str, args: Any, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    """Those that may not index another tensor, or be written into it: by slices alone a value is copied there."""
    indexed, indices, value = args[0], args[1], None if name == "__getitem__" else args[2]
    if not isinstance(indexed, OnCuda):
        return [each for each in tensors if isinstance(each, OnCuda) and (each.dim() or name != "__getitem__")]
    by_tensors = _tensors([indices]) or isinstance(indices, list)
    is_elsewhere = isinstance(value, torch.Tensor) and not isinstance(value, OnCuda) and value.dim() > 0
    return [value] if by_tensors and is_elsewhere else []


@contextmanager
def pretend_cuda(count: int = 1, memory: int | None = None) -> Iterator[Gpus]:
    """Within it there are so many CUDA devices, each of `memory` bytes, or of any number."""
    gpus = Gpus(count, memory)
    pretended: dict[str, Callable[..., object]] = {
        "is_available": lambda: True,
        "device_count": lambda: gpus.count,
        "current_device": lambda: gpus.current,
        "set_device": lambda device: setattr(gpus, "current", gpus.place(device).index),
        "get_device_name": lambda *_: "pretended",
        "synchronize": lambda *_: None,
        "empty_cache": lambda: gpus.held_when_emptied.append(gpus.held[gpus.current]),
        "_lazy_init": lambda: None,
    }
    with pytest.MonkeyPatch.context() as patched:
        for name, function in pretended.items():
            patched.setattr(torch.cuda, name, function)
        # A parameter that moves is replaced by another one, as on a real GPU; in place, it would keep its class.
        patched.setattr(torch, "_has_compatible_shallow_copy_type", lambda *pair: pair[1].device == CPU)
        patched.setattr(OnCuda, "gpus", gpus)
        with _Mode():
            yield gpus
