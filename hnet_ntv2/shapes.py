"""Array types for signatures, such as ``Float[Tensor, "batch length dim"]``.

With jaxtyping installed (the tests check shapes with it) these are its types. Without it, as on a machine that loads a
saved model through remote code, each annotation is simply the array type.
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
