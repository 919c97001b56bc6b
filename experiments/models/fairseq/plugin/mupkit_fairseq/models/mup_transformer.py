"""The architecture `mup_transformer`: fairseq's Transformer in SP or µP, with any dimensions.

`fairseq-train --user-dir .../mupkit_fairseq --arch mup_transformer --optimizer mup_adam ...`
trains it; its own options are listed in `MupTransformer.add_args`.
"""

from __future__ import annotations

import copy
import math
from argparse import ArgumentParser, Namespace
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from fairseq.models import register_model, register_model_architecture
from fairseq.models.transformer import TransformerModel, transformer_iwslt_de_en
from safetensors.torch import load_file

import mupkit
from experiments.models.building import build
from mupkit.rules import rule_for, scale
from mupkit_fairseq import exact_loss, given_rates, mup_adam  # noqa: F401 (registers them)
from mupkit_fairseq.attention import Attention


@dataclass(frozen=True)
class Shape:
    """The dimensions that scale, of encoder and decoder alike.

    `d_model` is a multiple of `n_head`, as fairseq wants it.
    """

    d_model: int
    d_ffn: int
    n_head: int
    d_k: int
    d_v: int

    @classmethod
    def read(cls, args: Namespace, prefix: str = "") -> Shape:
        """The shape that options give; a `d_k` or `d_v` of 0 becomes d_model / n_head."""
        shape = cls(*(getattr(args, prefix + field.name) for field in fields(cls)))
        if min(shape.d_model, shape.d_ffn, shape.n_head) < 1:
            option = f"--{prefix}d-model".replace("_", "-")
            raise ValueError(f"{option}, d-ffn and n-head must all be positive: {shape}")
        usual = shape.d_model // shape.n_head
        return cls(shape.d_model, shape.d_ffn, shape.n_head, shape.d_k or usual, shape.d_v or usual)

    def all_different(self) -> Shape:
        """A shape that shares no dimension with this one."""
        return Shape(*(2 * size for size in asdict(self).values()))


@register_model("mup_transformer")
class MupTransformer(TransformerModel):
    """fairseq's TransformerModel by Table 8; plain fairseq bit for bit in SP and at base width.

    µP is for the options of `transformer_iwslt_de_en` (post-norm, ReLU, sinusoidal positions), with
    embeddings tied in any way, or with normalization before the layers.

    fairseq multiplies its embeddings by sqrt(d_model). In µP that factor keeps its value at base
    width, and so does the std of the embeddings, as Table 8 has it.

    Source: Tensor Programs V, Appendices F.1 and F.2 (dimensions and multipliers), Definition 4.1
    (1/d attention), Table 8.
    """

    @classmethod
    def add_args(cls, parser: ArgumentParser) -> None:
        """The options of fairseq's Transformer, and those of its shape and of µP."""
        super().add_args(parser)
        usual = {"d_model": 512, "d_ffn": 1024, "n_head": 4, "d_k": 0, "d_v": 0}
        for name, size in usual.items():
            option = name.replace("_", "-")
            parser.add_argument(f"--{option}", type=int, default=size)
            parser.add_argument(f"--base-{option}", type=int, default=0)
        parser.add_argument("--output-mult", type=float, default=1.0)
        parser.add_argument("--attn-mult", type=float, default=1.0)
        parser.add_argument("--init-std", type=float, default=1.0)
        parser.add_argument("--initial-weights", default="", help="a safetensors file")

    @classmethod
    def build_model(cls, args: Namespace, task: Any) -> MupTransformer:
        """A parametrized and initialized model; SP if no base dimension is given."""
        shape = Shape.read(args)
        given = [getattr(args, f"base_{field.name}") for field in fields(Shape)]
        base = Shape.read(args, "base_") if any(given) else None

        def make(shape: Shape) -> MupTransformer:
            sized = resized(copy.copy(args), shape)
            model: MupTransformer = super(MupTransformer, cls).build_model(sized, task)
            model._adapt(shape, base or shape)
            return model

        model = build(make, shape, base)
        if args.initial_weights:
            model._load(args.initial_weights)
        return model

    def _adapt(self, shape: Shape, base: Shape) -> None:
        """Scale embeddings, attention and logits; leave what needs no change as fairseq has it."""
        usual = mupkit.attention_scale(shape.d_k)
        factor = mupkit.attention_scale(shape.d_k, base.d_k, self.args.attn_mult)
        heads = shape.n_head * shape.d_k, shape.n_head * shape.d_v
        for side in (self.encoder, self.decoder):
            if shape.d_model != base.d_model:
                side.embed_scale = math.sqrt(base.d_model)
            for layer in side.layers:
                for name in ("self_attn", "encoder_attn"):
                    plain = getattr(layer, name, None)
                    if plain and (factor != usual or heads != (shape.d_model, shape.d_model)):
                        own = Attention(plain, shape.n_head, shape.d_k, shape.d_v, factor)
                        setattr(layer, name, own)
        self.decoder.output_projection = mupkit.MuSharedReadout(  # also of a weight of its own
            self.decoder.output_projection.weight, bias=False, output_mult=self.args.output_mult
        )

    @torch.no_grad()
    def init_weights(self) -> None:
        """Turn fairseq's initialization, already drawn, into that of the rules.

        Each parameter is multiplied by the std that it should have over the one that fairseq gives
        it at this width. `init_std` multiplies matrices, embeddings included, and not biases.
        """
        infshapes = mupkit.get_infshapes(self)
        for name, p in self.named_parameters():
            if name.endswith(("layer_norm.weight", "layer_norm.bias")):
                continue
            *_, module, local = name.split(".")
            weight = infshapes[name.removesuffix(local) + "weight"]
            here, at_base = [d.dim for d in weight], [d.base_dim or d.dim for d in weight]
            factor = scale(infshapes[name], rule_for(infshapes[name]).init_std)
            if here != at_base:
                factor *= _fairseq_std(module, local, at_base) / _fairseq_std(module, local, here)
            p.mul_(factor if local == "bias" else factor * self.args.init_std)

    @torch.no_grad()
    def _load(self, path: str) -> None:
        """Take all parameters from a safetensors file."""
        tensors = load_file(path)
        own = dict(self.named_parameters())
        if unknown := sorted(own.keys() ^ tensors.keys()):
            raise ValueError(f"{path} and the model differ in {', '.join(unknown)}")
        for name, p in own.items():
            if p.shape != tensors[name].shape:
                raise ValueError(f"{path}: {name} is {tuple(tensors[name].shape)}, not {p.shape}")
            p.copy_(tensors[name])


def _fairseq_std(module: str, local: str, sizes: list[int]) -> float:
    """The std of fairseq's initialization, up to a constant, where the weight has these sizes.

    Raises:
        ValueError: for a module that `transformer_iwslt_de_en` does not have.
    """
    if module in ("embed_tokens", "output_projection"):
        return float(sizes[1] ** -0.5)  # (words, d_model)
    fan_out, fan_in = sizes
    if module in ("fc1", "fc2") or local == "bias":
        return float(fan_in**-0.5)
    if module in ("q_proj", "k_proj", "v_proj", "out_proj"):
        return float((fan_in + fan_out) ** -0.5)  # xavier_uniform_
    raise ValueError(f"mup_transformer does not know how fairseq initializes {module}.{local}")


def resized(args: Namespace, shape: Shape) -> Namespace:
    """Options whose encoder and decoder have a shape, in place."""
    for side in ("encoder", "decoder"):
        setattr(args, f"{side}_embed_dim", shape.d_model)
        setattr(args, f"{side}_ffn_embed_dim", shape.d_ffn)
        setattr(args, f"{side}_attention_heads", shape.n_head)
    args.decoder_input_dim = args.decoder_output_dim = shape.d_model
    return args


@register_model_architecture("mup_transformer", "mup_transformer")
def mup_transformer(args: Namespace) -> None:
    """Everything else as in `transformer_iwslt_de_en`."""
    transformer_iwslt_de_en(resized(args, Shape.read(args)))
