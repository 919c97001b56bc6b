"""The shape of a parameter with the base size of each dimension, and the role that follows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Role = Literal["input", "hidden", "output", "scalar"]


@dataclass(frozen=True)
class InfDim:
    """One dimension of a parameter.

    Args:
        base_dim: size in the base model, or None where the dimension does not scale with width
            ("finite").
        dim: size in the model at hand.
    """

    base_dim: int | None
    dim: int

    def isinf(self) -> bool:
        """Whether the dimension scales with width."""
        return self.base_dim is not None

    def width_mult(self) -> float:
        """`dim / base_dim`, and 1 for a finite dimension."""
        return 1.0 if self.base_dim is None else self.dim / self.base_dim


class InfShape:
    """The dimensions of one parameter, in the order (fan_out, fan_in, *kernel) of torch weights.

    Args:
        dims: one `InfDim` per dimension.
        transposed: the weight is stored (fan_in, fan_out, *kernel), the transpose of a linear
            weight: an embedding table, a transposed convolution, the Conv1D of GPT-2.
        stacked: the weight is a stack of matrices, one for each expert: (*stack, fan_out, fan_in).

    Raises:
        ValueError: if more than two dimensions scale with width, which the paper's tables do not
            cover, or if two do that are neither the first two nor those of a stack, and whose
            multipliers differ, so that it matters which of them is the fan-in.

    Source: Tensor Programs V, Appendix B, "Matrix-Like, Vector-Like, Scalar-Like Parameters".
    """

    __slots__ = ("dims", "stacked", "transposed")

    def __init__(self, dims: Iterable[InfDim], transposed: bool = False, stacked: bool = False):
        self.dims = tuple(dims)
        self.transposed, self.stacked = transposed, stacked
        if self.ninf() > 2:
            raise ValueError(
                f"{self.ninf()} dimensions of {self} scale with width; the µP tables cover at most "
                "two. Split the parameter, or keep one of its dimensions equal in base and delta."
            )
        mults = {d.width_mult() for d in self if d.isinf()}
        known = stacked or not any(d.isinf() for d in self.dims[2:])
        if self.ninf() == 2 and len(mults) > 1 and not known:
            raise ValueError(
                f"the width dimensions of {self} are not the first two, so which one is the fan-in "
                "is unknown, and they scale differently. Store it as (fan_out, fan_in, ...), or "
                "scale both alike."
            )

    def __len__(self) -> int:
        return len(self.dims)

    def __iter__(self) -> Iterator[InfDim]:
        return iter(self.dims)

    def __getitem__(self, index: int) -> InfDim:
        return self.dims[index]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, InfShape) and self.dims == other.dims

    def __hash__(self) -> int:
        return hash(self.dims)

    def __repr__(self) -> str:
        dims = (f"{d.base_dim}->{d.dim}" if d.isinf() else f"{d.dim}" for d in self)
        return f"InfShape({', '.join(dims)})"

    @classmethod
    def deserialize(cls, sizes: Mapping[str, Sequence[Any]]) -> InfShape:
        """The inverse of `serialize`."""
        return cls(map(InfDim, sizes["base_shape"], sizes["shape"]))

    def serialize(self) -> dict[str, list[int | None]]:
        """Base sizes and sizes, for a file."""
        return {"base_shape": self.base_shape(), "shape": [*self.shape()]}

    def base_shape(self) -> list[int | None]:
        """The base size of each dimension, None where it is finite."""
        return [d.base_dim for d in self]

    def shape(self) -> list[int]:
        """The size of each dimension."""
        return [d.dim for d in self]

    @property
    def main_idx(self) -> int | None:
        """The index of the last dimension that scales.

        `mup` lets it be set. Here `mupkit.parametrize(..., layout={name: "in_out"})` says how a
        parameter is stored.
        """
        return next((i for i in reversed(range(len(self))) if self[i].isinf()), None)

    @property
    def main(self) -> InfDim | None:
        """The last dimension that scales."""
        return None if self.main_idx is None else self[self.main_idx]

    def ninf(self) -> int:
        """The number of dimensions that scale with width: 0 scalar, 1 vector, 2 matrix-like."""
        return sum(d.isinf() for d in self)

    def width_mult(self) -> float:
        """The multiplier of the last dimension that scales: fan-in for a matrix-like weight."""
        return 1.0 if self.main is None else self.main.width_mult()

    def fanin_fanout(self) -> tuple[InfDim, InfDim]:
        """Fan-in and fan-out; a vector has fan-in 1 (paper, caption of Table 3).

        If a width comes after the first two dimensions, as in a positional embedding (1, length,
        width) or where nothing is known of a stack, only the dimensions that scale count.
        """
        if self.stacked:
            fan_out, fan_in = self.dims[-2:]
            return (fan_out, fan_in) if self.transposed else (fan_in, fan_out)
        one = InfDim(None, 1)
        scaling = [d for d in self if d.isinf()]
        if len(self) < 2 or any(d.isinf() for d in self.dims[2:]):
            fan_out, fan_in = (*(scaling or self.dims), one, one)[:2]
            return (fan_out, fan_in) if self.transposed and self.ninf() == 2 else (fan_in, fan_out)
        return (self[0], self[1]) if self.transposed else (self[1], self[0])

    def fanin_fanout_mult_ratio(self) -> float:
        """The width multiplier of the fan-in over that of the fan-out."""
        fan_in, fan_out = self.fanin_fanout()
        return fan_in.width_mult() / fan_out.width_mult()

    def role(self) -> Role:
        """The column of the µP tables that this parameter belongs to."""
        if self.ninf() == 0:
            return "scalar"
        if self.ninf() == 2:
            return "hidden"
        fan_in, _ = self.fanin_fanout()
        return "output" if fan_in.isinf() else "input"


def zip_infshape(
    base_dims: Sequence[int | InfDim | None], dims: Sequence[int], fin_if_same: bool = True
) -> InfShape:
    """The `InfShape` of base sizes and sizes.

    Args:
        base_dims: one for each dimension; None, or an `InfDim` without a base, is finite.
        dims: as many sizes.
        fin_if_same: a base size that equals the size counts as finite, as without a delta model.

    Raises:
        ValueError: if there are not as many of each.
    """
    found = []
    for given, dim in zip(base_dims, dims, strict=True):
        base = given.base_dim if isinstance(given, InfDim) else given
        same = fin_if_same and not isinstance(given, InfDim) and base == dim
        found.append(InfDim(None if same else base, dim))
    return InfShape(found)
