"""Turn a nested checkpoint (dicts, lists, numbers, tensors) into JSON plus named tensors, and back, without pickles."""

import math
from collections.abc import Mapping
from typing import Any

import torch

from ..errors import CheckpointError

# Nodes that plain JSON has no word for are objects with exactly one key, which starts with this sign.
_SIGN = "$"
_NON_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


class TreeEncoder:
    """Collects the tensors of one tree under readable names while its structure becomes JSON values.

    A tensor that occurs twice (tied weights) is stored once and comes back as one object. Floats keep every bit:
    ``json`` writes their shortest exact ``repr``; NaN and the infinities get nodes of their own.
    """

    def __init__(self) -> None:
        self.tensors: dict[str, torch.Tensor] = {}
        self._names: dict[tuple[Any, ...], str] = {}
        self._memory: set[int] = set()

    def encode(self, value: Any, where: str = "") -> Any:
        """Encode one value.

        Args:
            value: None, bool, int, float, str, dict, list, tuple, tensor, ``torch.dtype`` or ``torch.device``.
            where: Dotted path of the value, for tensor names and errors.

        Raises:
            CheckpointError: The value has a type that could only be stored as a pickle.
        """
        if value is None or isinstance(value, bool | str) or type(value) is int:
            return value
        if isinstance(value, float):
            return value if math.isfinite(value) else {"$float": repr(float(value))}
        if isinstance(value, torch.Tensor):
            return {"$tensor": self._store(value, where or "tensor")}
        if isinstance(value, Mapping):
            return self._encode_mapping(value, where)
        if isinstance(value, tuple):
            return {"$tuple": [self.encode(item, _join(where, i)) for i, item in enumerate(value)]}
        if isinstance(value, list):
            return [self.encode(item, _join(where, i)) for i, item in enumerate(value)]
        if isinstance(value, torch.dtype):
            return {"$dtype": str(value).removeprefix("torch.")}
        if isinstance(value, torch.device):
            return {"$device": str(value)}
        raise CheckpointError(
            f"checkpoint entry {where or '(root)'} is a {type(value).__module__}.{type(value).__qualname__}, which "
            "only a pickle could store; keep numbers, strings, lists, dicts and tensors in checkpoints"
        )

    def _encode_mapping(self, value: Mapping[Any, Any], where: str) -> Any:
        if all(isinstance(key, str) and not key.startswith(_SIGN) for key in value):
            return {key: self.encode(item, _join(where, key)) for key, item in value.items()}
        pairs = [[self.encode(key, where), self.encode(item, _join(where, key))] for key, item in value.items()]
        return {"$dict": pairs}

    def _store(self, tensor: torch.Tensor, where: str) -> str:
        if tensor.layout != torch.strided or tensor.is_quantized:
            raise CheckpointError(
                f"checkpoint entry {where} is a {tensor.layout} tensor; only dense tensors are stored"
            )
        identity = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, tensor.device)
        if tensor.numel() and identity in self._names:
            return self._names[identity]
        name = where
        while name in self.tensors:  # such as the keys 1 and "1" of one dict
            name += "'"
        dense = tensor.detach().to("cpu").contiguous()
        memory = dense.untyped_storage()
        if memory.nbytes() != dense.nbytes or memory.data_ptr() in self._memory:
            dense = dense.clone()  # safetensors wants entries that share no memory
        self._memory.add(dense.untyped_storage().data_ptr())
        self.tensors[name] = dense
        self._names[identity] = name
        return name


def decode(node: Any, tensors: Mapping[str, torch.Tensor] | None) -> Any:
    """Undo :meth:`TreeEncoder.encode`.

    Args:
        node: A JSON value.
        tensors: Tensors by name; None leaves their names (as strings) in place, for a look at the numbers only.
    """
    if isinstance(node, list):
        return [decode(item, tensors) for item in node]
    if not isinstance(node, dict):
        return node
    if len(node) == 1:
        (tag, content), *_ = node.items()
        if tag.startswith(_SIGN):
            return _decode_tagged(tag, content, tensors)
    return {key: decode(item, tensors) for key, item in node.items()}


def _decode_tagged(tag: str, content: Any, tensors: Mapping[str, torch.Tensor] | None) -> Any:
    match tag:
        case "$tensor":
            return content if tensors is None else tensors[content]
        case "$float":
            return _NON_FINITE[content]
        case "$tuple":
            return tuple(decode(item, tensors) for item in content)
        case "$dict":
            return {decode(key, tensors): decode(item, tensors) for key, item in content}
        case "$dtype":
            return getattr(torch, content)
        case "$device":
            return torch.device(content)
    raise CheckpointError(f"a checkpoint node is of the unknown kind {tag!r}; a newer version may have written it")


def _join(where: str, key: Any) -> str:
    return f"{where}.{key}" if where else str(key)
