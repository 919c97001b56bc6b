"""The coordinate check of the `mup` package: data and pictures, no verdict.

The arguments and columns are those of mup 1.0.0. Deviations: `cuda` defaults to whether there is a
GPU, batches are moved without changing the loader's, and the function that `PLOT` names draws the
picture. pandas is needed, and is imported when it is used.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import islice, product, repeat
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam, AdamW, Optimizer

from mupkit.optim import MuAdam, MuAdamW, MuSGD

PLOT = "experiments.analysis.coordinate_pictures:coordinates"
"""Draws coordinate data: (DataFrame with columns width, t, module, l1) -> matplotlib Figure."""

Statistic = Callable[[Tensor], Any]
Statistics = Mapping[str, str | Statistic]


def _gram(x: Tensor) -> Tensor:
    """Products of the vectors along the last dimension, divided by its size."""
    vectors = x.reshape(-1, x.shape[-1]) if x.numel() > 1 else x.reshape(1, 1)
    return vectors @ vectors.mT / vectors.shape[-1]


def _off_diagonal(x: Tensor) -> Tensor:
    gram = _gram(x)
    return gram[~torch.eye(len(gram), dtype=torch.bool, device=gram.device)]


def _l1(x: Tensor) -> Tensor:
    return x.abs().mean()


def _l2(x: Tensor) -> Tensor:
    return x.square().mean().sqrt()


FDICT: dict[str, Statistic] = {
    "l1": _l1,
    "l2": _l2,
    "mean": torch.mean,
    "std": torch.std,
    "covl1": lambda x: _l1(_gram(x)),
    "covl2": lambda x: _l2(_gram(x)),
    "covoffdiagl1": lambda x: _l1(_off_diagonal(x)),
    "covoffdiagl2": lambda x: _l2(_off_diagonal(x)),
}
"""The statistics that have a name."""


def get_coord_data(
    models: Mapping[int, Callable[[], nn.Module]],
    dataloader: Iterable[Any],
    optimizer: str = "sgd",
    lr: float | None = None,
    mup: bool = True,
    filter_trainable_by_name: Callable[[str], bool] | None = None,
    nsteps: int = 3,
    dict_in_out: bool = False,
    flatten_input: bool = False,
    flatten_output: bool = False,
    output_name: str = "loss",
    lossfn: str | Callable[[Tensor, Tensor], Tensor] = "xent",
    filter_module_by_name: Callable[[str], bool] | None = None,
    fix_data: bool = True,
    cuda: bool | None = None,
    nseeds: int = 1,
    output_fdict: Statistics | None = None,
    input_fdict: Statistics | None = None,
    param_fdict: Statistics | None = None,
    show_progress: bool = True,
) -> Any:
    """Train lazily built models for a few steps and tabulate their coordinates.

    Args:
        models: functions of no arguments that build the model, by width.
        dataloader: yields (input, label), or dictionaries if `dict_in_out`.
        optimizer: "sgd", "adam" or "adamw".
        lr: learning rate; None means 0.1 for SGD and 1e-3 otherwise.
        mup: whether the optimizer is mupkit's or torch's.
        filter_trainable_by_name: which parameters are trained; all if None.
        nsteps: number of training steps, t = 1 to nsteps; each is recorded in the forward pass
            before its update.
        dict_in_out: whether batches are dictionaries of the model's keyword arguments, and the
            model returns its loss.
        flatten_input, flatten_output: make the input 2-D, (batch, -1), and the output
            (-1, classes).
        output_name: the loss's key in the output, if `dict_in_out` and the output is a dictionary;
            otherwise the loss is the first element.
        lossfn: "xent", "mse" (to one-hot labels), "nll", or a function of output and labels.
        filter_module_by_name: which modules are recorded; all if None.
        fix_data: use the first batch at every step.
        cuda: train on a GPU.
        nseeds: number of repetitions, with seeds 0, 1, ...
        output_fdict, input_fdict, param_fdict: statistics of outputs, inputs and parameters by
            column: functions or names in `FDICT`. None means the mean absolute value, "l1", of
            outputs alone.
        show_progress: print one line per model to stderr.

    Returns:
        A pandas DataFrame with the columns width, module, t, those of the statistics, optimizer and
        lr.

    Raises:
        ValueError: for an unknown optimizer or loss.
        ModuleNotFoundError: without pandas.
    """
    pandas = _load("pandas", "get_coord_data returns a pandas DataFrame: install pandas")
    lr = lr if lr is not None else 0.1 if optimizer == "sgd" else 1e-3
    make_optimizer = _optimizer(optimizer, mup)
    loss_of = lossfn if callable(lossfn) else _LOSSES.get(lossfn)
    if loss_of is None:
        raise ValueError(f"lossfn is {lossfn!r}, allowed are {', '.join(_LOSSES)}")
    device = "cuda" if (torch.cuda.is_available() if cuda is None else cuda) else "cpu"
    statistics = (output_fdict or {"l1": "l1"}, input_fdict or {}, param_fdict or {})
    trained = filter_trainable_by_name or (lambda name: True)
    shown = filter_module_by_name or (lambda name: True)
    fixed = next(iter(dataloader)) if fix_data else None
    first_width = next(iter(models))
    rows: list[dict[str, Any]] = []
    for seed, (width, build) in product(range(nseeds), models.items()):
        if width == first_width:
            torch.manual_seed(seed)
        if show_progress:
            print(f"coordinate check: seed {seed}, width {width}", file=sys.stderr)
        model = build().train().to(device)
        trainer = make_optimizer([p for n, p in model.named_parameters() if trained(n)], lr=lr)
        batches = repeat(fixed) if fix_data else dataloader
        for t, batch in enumerate(islice(batches, nsteps), 1):
            with _recording(model, shown, {"width": width, "t": t}, statistics, rows):
                if dict_in_out:
                    loss = _dict_loss(model, _to(batch, device), output_name)
                else:
                    flat = flatten_input, flatten_output
                    loss = _pair_loss(model, _to(batch, device), flat, loss_of)
            trainer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            trainer.step()
    return pandas.DataFrame(rows).assign(optimizer=optimizer, lr=lr)


def plot_coord_data(df: Any, y: str = "l1", save_to: Any = None, **options: Any) -> Any:
    """Draw what `get_coord_data` returned, by the function that `PLOT` names.

    Args:
        df: the DataFrame.
        y: the column to draw; the function gets it as "l1".
        save_to: the file for the picture, or None.
        options: passed to the function.

    Returns:
        The Matplotlib figure.

    Raises:
        ModuleNotFoundError: if that function cannot be imported, since mupkit itself draws nothing.
    """
    module, _, name = PLOT.partition(":")
    hint = f"mupkit draws with {PLOT}, which cannot be imported"
    draw = getattr(_load(module, hint), name, None)
    if draw is None:
        raise ModuleNotFoundError(hint)
    # A model's own output, named "", repeats that of its last module.
    columns = {"width": df["width"], "t": df["t"], "module": df["module"], "l1": df[y]}
    figure = draw(type(df)(columns)[df["module"] != ""], **options)
    if save_to is not None:
        figure.savefig(save_to)
    return figure


def _load(module: str, hint: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(hint) from error


def _optimizer(name: str, mup: bool) -> Callable[..., Optimizer]:
    known: dict[str, tuple[Callable[..., Optimizer], Callable[..., Optimizer]]] = {
        "sgd": (MuSGD, SGD),
        "adam": (MuAdam, Adam),
        "adamw": (MuAdamW, AdamW),
    }
    if name not in known:
        raise ValueError(f"optimizer is {name!r}, allowed are {', '.join(known)}")
    return known[name][0 if mup else 1]


def _mse(output: Tensor, labels: Tensor) -> Tensor:
    return F.mse_loss(output, F.one_hot(labels, output.shape[-1]).to(output.dtype))


_LOSSES: dict[str, Callable[..., Tensor]] = {
    "xent": F.cross_entropy,
    "mse": _mse,
    "nll": F.nll_loss,
}


def _to(batch: Any, device: str) -> Any:
    """The batch on a device: a tensor, or a dictionary or sequence of them."""
    if isinstance(batch, Mapping):
        return {key: _to(x, device) for key, x in batch.items()}
    if isinstance(batch, Tensor):
        return batch.to(device)
    return [_to(x, device) for x in batch] if isinstance(batch, list | tuple) else batch


def _dict_loss(model: nn.Module, batch: Mapping[str, Any], name: str) -> Tensor:
    output = model(**batch)
    loss: Tensor = output[name] if isinstance(output, Mapping) else output[0]
    return loss


def _pair_loss(
    model: nn.Module, batch: Any, flatten: tuple[bool, bool], loss: Callable[..., Tensor]
) -> Tensor:
    x, labels = batch
    output = model(x.reshape(len(x), -1) if flatten[0] else x)
    return loss(output.reshape(-1, output.shape[-1]) if flatten[1] else output, labels)


@contextmanager
def _recording(
    model: nn.Module,
    shown: Callable[[str], bool],
    key: Mapping[str, int],
    statistics: tuple[Statistics, Statistics, Statistics],
    rows: list[dict[str, Any]],
) -> Iterator[None]:
    """Append one row per tensor of the modules that are shown, with mup's names for them."""
    outputs, inputs, params = [
        {column: FDICT[f] if isinstance(f, str) else f for column, f in fdict.items()}
        for fdict in statistics
    ]

    @torch.no_grad()
    def add(name: str, x: Any, functions: Mapping[str, Statistic]) -> None:
        if isinstance(x, Tensor):
            if functions:
                values = {column: float(f(x)) for column, f in functions.items()}
                rows.append({**key, "module": name, **values})
        elif isinstance(x, Mapping | list | tuple):
            for i, part in x.items() if isinstance(x, Mapping) else enumerate(x):
                add(f"{name}[{i}]", part, functions)

    def hook(name: str) -> Callable[..., None]:
        def forward(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            add(name if isinstance(output, Tensor) else f"{name}:out", output, outputs)
            add(f"{name}:in", args, inputs)
            for local, p in module.named_parameters():
                add(f"{name}:param[{local}]", p, params)

        return forward

    with ExitStack() as stack:
        for name, module in model.named_modules():
            if shown(name):
                stack.callback(module.register_forward_hook(hook(name)).remove)
        yield
