"""The dimensions of a Transformer as keys of a run."""

from __future__ import annotations

from typing import Any, Self

from pydantic import Field

from experiments.declare.config import LARGEST_DIM, RunConfig

DIMS = ("n_head", "d_head", "d_k", "d_ffn")


class TransformerDims(RunConfig):
    """A run of a Transformer; `width` is d_model. Dimensions left at None follow from the width."""

    n_head: int = Field(4, gt=0, le=LARGEST_DIM, description="attention heads")
    d_head: int | None = Field(
        None, gt=0, le=LARGEST_DIM, description="of a value (width / n_head)"
    )
    d_k: int | None = Field(None, gt=0, le=LARGEST_DIM, description="of a query and a key (d_head)")
    d_ffn: int | None = Field(
        None, gt=0, le=LARGEST_DIM, description="of the feed-forward layer (4 width)"
    )
    base_n_head: int | None = Field(
        None, gt=0, le=LARGEST_DIM, description="of the base model (n_head)"
    )
    base_d_head: int | None = Field(None, gt=0, le=LARGEST_DIM, description="of the base model")
    base_d_k: int | None = Field(None, gt=0, le=LARGEST_DIM, description="of the base model")
    base_d_ffn: int | None = Field(None, gt=0, le=LARGEST_DIM, description="of the base model")

    def dims(self, base: bool = False) -> dict[str, int]:
        """d_model, n_head, d_head, d_k and d_ffn of the model or of its base."""
        prefix, width = ("base_", self.base_width) if base else ("", self.width)
        given = {d: getattr(self, prefix + d) for d in DIMS}
        n_head = given["n_head"] or self.n_head
        d_head = given["d_head"] or max(1, width // n_head)
        return {
            "d_model": width,
            "n_head": n_head,
            "d_head": d_head,
            "d_k": given["d_k"] or d_head,
            "d_ffn": given["d_ffn"] or 4 * width,
        }

    def idle(self) -> dict[str, str]:
        found = super().idle()
        if self.parametrization == "sp":
            found |= {f"base_{dim}": "parametrization=sp" for dim in DIMS}
        return found

    def weights(self) -> int:
        """Those of one block."""
        d = self.dims()
        return d["d_model"] * 2 * (d["n_head"] * (d["d_k"] + d["d_head"]) + d["d_ffn"])

    def narrowed(self, width: int) -> Self:
        """As of any run; given dimensions shrink with the width, the number of heads stays."""
        narrow = super().narrowed(width)
        given = {d: getattr(self, d) for d in DIMS if d != "n_head"}
        dims = {d: max(1, round(x * width / self.width)) for d, x in given.items() if x is not None}
        if self.parametrization == "sp":
            wide = self.dims()
            dims |= {f"base_{d}": wide[d] for d in DIMS}
        return narrow.replace(**dims)

    def canonical(self) -> dict[str, Any]:
        values = super().canonical()
        for dim in DIMS:
            values.pop(dim, None)
            values.pop(f"base_{dim}", None)
        values["dims"] = self.dims()
        if self.parametrization == "mup":
            values["base_dims"] = self.dims(base=True)
        return values
