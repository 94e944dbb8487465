"""Array types for signatures, such as ``Float[Tensor, "batch length dim"]``.

With jaxtyping installed these are its types, and the tests check shapes with them. Without it each annotation is the
array type: a machine that loads a saved model as remote code needs no jaxtyping.
"""

from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int, Shaped, UInt8
else:
    try:
        from jaxtyping import Bool, Float, Int, Shaped, UInt8
    except ImportError:

        class _ArrayType:
            """Stands in for jaxtyping's dtype classes: subscripting gives back the array type."""

            def __class_getitem__(cls, item):
                return item[0]

        class Bool(_ArrayType): ...

        class Float(_ArrayType): ...

        class Int(_ArrayType): ...

        class Shaped(_ArrayType): ...

        class UInt8(_ArrayType): ...


__all__ = ["Bool", "Float", "Int", "Shaped", "Tensor", "UInt8"]
