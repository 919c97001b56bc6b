"""Names of fairseq's `transformer` in `experiments.models.encoder_decoder`."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

_WHOLE = {
    "encoder.embed_tokens.weight": "source_word.weight",
    "decoder.embed_tokens.weight": "target_word.weight",
    "decoder.output_projection.weight": "readout.weight",
}
_IN_LAYER = {
    "self_attn.q_proj": "attention.query",
    "self_attn.k_proj": "attention.key",
    "self_attn.v_proj": "attention.value",
    "self_attn.out_proj": "attention.out",
    "self_attn_layer_norm": "attention_norm",
    "encoder_attn.q_proj": "cross_attention.query",
    "encoder_attn.k_proj": "cross_attention.key",
    "encoder_attn.v_proj": "cross_attention.value",
    "encoder_attn.out_proj": "cross_attention.out",
    "encoder_attn_layer_norm": "cross_attention_norm",
    "fc1": "feed_forward.up",
    "fc2": "feed_forward.down",
    "final_layer_norm": "feed_forward_norm",
}
_LAYER = re.compile(r"(encoder|decoder)\.layers\.(\d+)\.(.+)\.(weight|bias)")
_IGNORED = {"encoder.version", "decoder.version"}


def from_fairseq(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of an `EncoderDecoder` from that of a model of fairseq: the same tensors.

    Raises:
        ValueError: a parameter has no place there, as of a model with other options.
    """
    return {_renamed(name): t for name, t in state_dict.items() if name not in _IGNORED}


def _renamed(name: str) -> str:
    if name in _WHOLE:
        return _WHOLE[name]
    found = _LAYER.fullmatch(name)
    if found is None or found[3] not in _IN_LAYER:
        raise ValueError(f"{name} of fairseq's model has no place in EncoderDecoder")
    return f"{found[1]}.{found[2]}.{_IN_LAYER[found[3]]}.{found[4]}"
