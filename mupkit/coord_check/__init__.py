"""A coordinate check that decides.

`coord_check` trains a model at several widths for a few steps, fits the power of width that each
activation, its change and each parameter's update follow, and says which of them contradict µP.
Use learning rates as large as training bears: at small ones the initialization hides a layer that
does not learn, or that learns too much.

    >>> import torch, mupkit
    >>> from mupkit.coord_check import coord_check
    >>> def plain(width):
    ...     return torch.nn.Sequential(torch.nn.Linear(3, width), torch.nn.ReLU(),
    ...                                torch.nn.Linear(width, width), torch.nn.ReLU(),
    ...                                mupkit.MuReadout(width, 2))
    >>> def build(width):
    ...     return mupkit.set_base_shapes(plain(width), plain(32), delta=plain(33))
    >>> x, y = torch.randn(16, 3), torch.randint(2, (16,))
    >>> def loss(model):
    ...     return torch.nn.functional.cross_entropy(model(x), y)
    >>> def plain_adam(model):  # a mistake: it should be mupkit.MuAdam(model, lr=0.02)
    ...     return torch.optim.Adam(model.parameters(), lr=0.02)
    >>> report = coord_check(build, [64, 128, 256, 512], make_optimizer=plain_adam, loss=loss)
    >>> report.passed
    False

`print(report)` names every tensor with its exponent and its verdict.

`get_coord_data` and `plot_coord_data` have the arguments of the `mup` package.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

from mupkit.coord_check.attention import attention_powers
from mupkit.coord_check.capture import Loss, capture
from mupkit.coord_check.compat import get_coord_data, plot_coord_data
from mupkit.coord_check.record import Build, MakeOptimizer, Row, record
from mupkit.coord_check.statistics import NEGLIGIBLE, Fit, fit
from mupkit.coord_check.verdict import TOLERANCE, Report, Verdict, judge, report
from mupkit.coord_check.wider import Comparison, Wider, wider_is_better

__all__ = [
    "NEGLIGIBLE",
    "TOLERANCE",
    "Comparison",
    "Fit",
    "Report",
    "Row",
    "Verdict",
    "Wider",
    "capture",
    "coord_check",
    "fit",
    "get_coord_data",
    "judge",
    "plot_coord_data",
    "record",
    "report",
    "wider_is_better",
]


def coord_check(
    build: Build,
    widths: Iterable[int],
    *,
    make_optimizer: MakeOptimizer,
    loss: Loss,
    steps: int = 3,
    seeds: Iterable[int] = range(5),
    most_seeds: int | None = None,
    clip: float | None = None,
    dtype: torch.dtype | None = torch.float64,
) -> Report:
    """Train models of several widths for a few steps, and judge how their sizes scale with width.

    The exponent e of each tensor x is fitted to

        rms(x) / expected(x) ~ width^e

    with rms the root mean square over the entries, and expected(x) the size that theory gives the
    update of a parameter (Appendix J.2.1), 1 for activations and their changes.
    In µP e is 0 for activations at initialization, for their changes and for updates of
    parameters; at initialization the output and attention logits may have e < 0. `judge` says how
    the verdict follows from e and its confidence interval.

    Args:
        build: build(width) returns the parametrized and initialized model of a width.
        widths: at least two; three or more, spread over a factor of eight or more, tell more.
        make_optimizer: make_optimizer(model) returns its optimizer.
        loss: loss(model) returns the scalar loss on a batch that is the same at every call.
        steps: number of updates; after one, only the readout may have moved the output.
        seeds: one model per width and seed; one seed decides nothing.
        most_seeds: while nothing fails and something is undecided, as many further seeds are added,
            up to this number; None adds none. Every look has an interval of 95 %, so that with
            several looks chance decides a little more often.
        clip: the norm to which all gradients together are clipped, as in your training, or None.
        dtype: the type to which models and their floating-point inputs are converted, since
            rounding noise would look like signal; None converts nothing.

    Returns:
        A `Report`: `report.passed`, `report.failures`, and `print(report)` for all verdicts.

    Raises:
        ValueError: as `record`.

    Source: Tensor Programs V, Fig. 5, Appendices D.1 and J.2; the verdict is this package's own.
    """
    widths, seeds = list(widths), list(dict.fromkeys(seeds))
    rows: list[Row] = []
    more = seeds
    attention: dict[str, float] | None = None
    while True:
        rows += record(
            build,
            widths,
            make_optimizer=make_optimizer,
            loss=loss,
            steps=steps,
            seeds=more,
            clip=clip,
            dtype=dtype,
        )
        if attention is None:  # after the first runs, whose errors say more
            attention = attention_powers(build, loss, min(widths), max(widths))
        found = report(fit(rows), rows, attention)
        room = (most_seeds or 0) - len(seeds)
        if found.passed or found.failures or not found.undecided or room <= 0:
            return found
        more = [max(seeds) + 1 + i for i in range(min(len(more), room))]
        seeds += more
