"""A second device that needs no hardware: CPU data behind a device that refuses to be mixed with the CPU.

Importing this registers a backend with torch for the whole process; only ``integration/on_second_device.py`` does it,
in a process of its own. As on CUDA, a CPU scalar may meet a device tensor. More strictly than on CUDA, a CPU tensor of
one or more dimensions may not, not even as an index: what would be a hidden transfer there is an error here.
"""

import torch
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

NAME = "strict"
_COPIES = ("aten::copy_", "aten::_copy_from", "aten::_to_copy")  # whose purpose is to carry data between devices

transfers: list[str] = []
"""Every exchange with the host so far, by the name of the operation; tests clear it."""


class _Backend(_DummyBackendModule):
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


class StrictTensor(torch.Tensor):
    """A tensor of the second device; ``raw`` holds its values on the CPU."""

    raw: torch.Tensor

    @staticmethod
    def __new__(cls, raw: torch.Tensor):
        place = {"storage_offset": raw.storage_offset(), "dtype": raw.dtype, "device": torch.device(NAME, 0)}
        tensor = torch.Tensor._make_wrapper_subclass(cls, raw.shape, strides=raw.stride(), **place)
        tensor.raw = raw
        return tensor

    def __repr__(self, **options) -> str:
        return f"on {NAME}: {self.raw!r}"

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func is torch.Tensor.tolist:  # torch reads the memory of a tensor itself, which a wrapper has not
            transfers.append("tolist")
            return args[0].raw.tolist()
        if func is torch.Tensor.data_ptr:
            return args[0].raw.data_ptr()
        if func in (torch.Tensor.__getitem__, torch.Tensor.__setitem__):
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            if any(isinstance(part, list) for part in index):
                raise RuntimeError("an index that is a list is sent to the device each time")
        if func is torch.Tensor.new_tensor:
            return torch.tensor(args[1], **{"dtype": args[0].dtype, "device": args[0].device, **(kwargs or {})})
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, *args, **(kwargs or {}))


def _run(func, *args, **kwargs):
    """Run an operation on the CPU data; what it returns is on the second device again."""
    given: list[torch.Tensor] = []
    _each((*args, *kwargs.values()), lambda leaf: given.append(leaf) if isinstance(leaf, torch.Tensor) else None)
    from_host = [tensor for tensor in given if not isinstance(tensor, StrictTensor)]
    is_mixed = 0 < len(from_host) < len(given)
    name, goes_to_host = func._schema.name, str(kwargs.get("device")) == "cpu"
    if is_mixed and name not in _COPIES and any(tensor.dim() for tensor in from_host):
        shapes = [tuple(tensor.shape) for tensor in from_host]
        raise RuntimeError(f"{name}: CPU tensors of shapes {shapes} meet tensors on device {NAME!r}")
    if name == "aten::_local_scalar_dense" or (name in _COPIES and (is_mixed or goes_to_host)):
        transfers.append(name)
    raw = {id(tensor): tensor.raw if isinstance(tensor, StrictTensor) else tensor for tensor in given}
    wrapped = {id(raw[id(tensor)]): tensor for tensor in given}  # results of in-place operations are their arguments

    def to_cpu(leaf):
        if isinstance(leaf, torch.device) and leaf.type == NAME:
            return torch.device("cpu")
        return raw[id(leaf)] if isinstance(leaf, torch.Tensor) else leaf

    def to_device(leaf):
        if not isinstance(leaf, torch.Tensor) or goes_to_host:
            return leaf
        known = wrapped.get(id(leaf))
        if isinstance(known, StrictTensor) and known.shape != leaf.shape:
            with torch._C.DisableTorchFunctionSubclass():
                known.data = StrictTensor(leaf)  # an operation with out= has resized it
        return StrictTensor(leaf) if known is None else known

    results = func(*_each(args, to_cpu), **{key: _each(value, to_cpu) for key, value in kwargs.items()})
    return _each(results, to_device)


def _each(values, change):
    """The same tuples and lists of changed leaves."""
    if isinstance(values, tuple | list):
        return type(values)([_each(value, change) for value in values])
    return change(values)


def _tensor(data, *, device=None, make=torch.tensor, **options) -> torch.Tensor:
    """``torch.tensor``, which does not ask Python backends, by way of the CPU."""
    return make(data, **options) if device is None else make(data, **options).to(device)


torch.tensor = _tensor
_setup_privateuseone_for_python_backend(NAME, _Backend())
_LIBRARY = torch.library.Library("_", "IMPL")
_LIBRARY.fallback(_run, dispatch_key="PrivateUse1")
