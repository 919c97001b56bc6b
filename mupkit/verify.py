"""What a model's code implies for µP, measured instead of assumed.

Initializations are drawn at two widths and compared; forward passes at two widths show which
scalars and which contractions depend on width.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping

from torch import nn

from mupkit.base_shapes import RESCALED, canonical
from mupkit.infshape import InfShape
from mupkit.observe import Observed, changed
from mupkit.parametrization import owners_of
from mupkit.storage import Init, Inits, default_std, local_parameters

DRAWS = 16  # of an initialization, at most
SIGMAS = 5.0
SLACK, CLEAR = 0.02, 0.15  # of the logarithm of a size: beside chance, and with it


def initializations(
    draw: Callable[[int], tuple[nn.Module, nn.Module]],
    infshapes: Mapping[str, InfShape],
    given: Inits,
    draws: int = DRAWS,
) -> Inits:
    """How the size of every parameter's initial values goes with width, measured.

    Args:
        draw: base and wide model for a seed, just initialized.
        infshapes: of the wide model, by parameter name.
        given: what is known already; these parameters are not looked at.
        draws: pairs of models at most. More than one are drawn where chance hides the difference.

    Raises:
        ValueError: if the size of a parameter follows neither "constant" nor "torch", naming it.
    """
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0, 0.0])
    found: dict[str, Init] = {}
    for seed in range(draws):
        base, wide = draw(seed)
        predicted = {name: math.log(std) for name, std in _default_stds(wide, infshapes)}
        for i, model in enumerate((base, wide)):
            for name, p in model.named_parameters():
                total = sums[canonical(name)]
                total[2 * i] += p.detach().double().square().sum().item()
                total[2 * i + 1] += p.numel()
        found, unclear = {}, {}
        for name, torchs in predicted.items():
            if name in given or not infshapes[name].ninf():
                continue
            ratio, noise = _ratio(*sums[name])
            laws: dict[Init, float] = {"constant": 0.0, "torch": torchs}
            fits = {law: abs(ratio - x) for law, x in laws.items() if abs(ratio - x) <= noise}
            told = len(fits) == 1 or (fits and abs(torchs) < SLACK and noise < CLEAR)
            if not told and abs(ratio) > 1e-9:  # else the values are no drawn ones
                unclear[name] = math.exp(ratio)
            if fits:
                found[name] = min(fits, key=lambda law: fits[law])
        if not unclear:
            break
    if unknown := [f"{name} ({x:.3g} times)" for name, x in unclear.items() if name not in found]:
        raise ValueError(
            "the initial size of some parameters goes with width neither as a constant nor as "
            f"PyTorch's default: {', '.join(unknown)}. Draw them another way, or say how they go "
            'by init={name: "constant" or "torch"}'
        )
    return {**found, **given}


def _default_stds(
    model: nn.Module, infshapes: Mapping[str, InfShape]
) -> Iterator[tuple[str, float]]:
    """Factors of PyTorch's default std by parameter name, 1 at base width."""
    owners = owners_of(model)
    by_id = {id(p): infshapes[canonical(name)] for name, p in model.named_parameters()}
    for name, p in model.named_parameters():
        module, local = owners[id(p)]
        own = {key: by_id[id(q)] for key, q in local_parameters(module).items()}
        yield canonical(name), default_std(module, local, own)


def _ratio(base: float, base_count: float, wide: float, wide_count: float) -> tuple[float, float]:
    """Logarithm of the ratio of root mean squares, and how far chance may move it."""
    if not base or not wide:
        return 0.0, SLACK  # zeros at one width are no matter of scale
    ratio = 0.5 * math.log((wide / wide_count) / (base / base_count))
    return ratio, SLACK + SIGMAS * math.sqrt(0.5 / base_count + 0.5 / wide_count)


def check_fresh(
    model: nn.Module, base: nn.Module, infshapes: Mapping[str, InfShape], inits: Inits
) -> None:
    """Refuse a model whose parameters are not as its initialization draws them.

    Raises:
        ValueError: naming parameters whose size is another: the model was trained or rescaled.
    """
    owners, other = owners_of(model), []
    theirs = {canonical(name): p for name, p in base.named_parameters()}
    stds = dict(_default_stds(model, infshapes))
    for actual, p in model.named_parameters():
        name, (module, local) = canonical(actual), owners[id(p)]
        if p.is_meta or not infshapes[name].ninf() or local in vars(module).get(RESCALED, {}):
            continue
        counts = [(x.detach().double().square().sum().item(), x.numel()) for x in (theirs[name], p)]
        ratio, noise = _ratio(*counts[0], *counts[1])
        expected = math.log(stds[name]) if inits.get(name) == "torch" else 0.0
        if abs(ratio - expected) > 0.05 + noise:
            other.append(f"{name} ({math.exp(ratio - expected):.3g} times)")
    if other:
        raise ValueError(
            "some parameters have another size than the model's initialization gives them: "
            f"{_first(other)}. If the model was trained, its weights must not be rescaled: say "
            "rescale_params=False, after training in µP. If you drew them yourself, do so after "
            "parametrizing, with the functions of mupkit.init"
        )


def attention_mults(base: Observed, wide: Observed) -> dict[str, float]:
    """What attention logits must be multiplied by for 1/d attention, by module; 1 at base width.

    With it, factor * d_head is that of the base model.

    Raises:
        ValueError: if a module attends in several ways, or contracts activations over a size that
            depends on width without a softmax, naming it.
    """
    found = {}
    for name in sorted(base.contracted.keys() | wide.contracted.keys()):
        own, other = (seen.attention.get(name, []) for seen in (wide, base))
        both = zip(other, own, strict=False)
        mults = {round(b.relative / w.relative, 6) for b, w in both}
        unlike = changed(base.contracted.get(name, []), wide.contracted.get(name, []))
        if len(mults) > 1 or len(own) != len(other) or (unlike and not mults):
            raise ValueError(
                f"{name} multiplies activations with each other in a way that is not understood, "
                f"over sizes {_pairs(unlike)}, in the base and in this model"
            )
        if mults:
            found[name] = mults.pop()
    return found


def check_multipliers(base: Observed, wide: Observed) -> None:
    """Refuse scalars in the forward pass that depend on width, attention's aside.

    Raises:
        ValueError: naming the module and the scalars.
    """
    for name in sorted(base.factors.keys() | wide.factors.keys()):
        if name in wide.attention:
            continue
        if pairs := changed(base.factors.get(name, []), wide.factors.get(name, [])):
            raise ValueError(
                f"{name or 'the model'} multiplies activations by a number that depends on width, "
                f"{_pairs(pairs)} in the base and in this model: give it the same number at all "
                "widths, that of the base, before parametrizing"
            )


def _pairs(pairs: Iterable[tuple[float, float]]) -> str:
    return ", ".join(f"{a:.4g} and {b:.4g}" for a, b in pairs) or "none"


def _first(names: list[str], most: int = 4) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
