"""fairseq's Transformers and beam search, for comparison."""

from __future__ import annotations

import warnings
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from torch import Tensor, nn

from experiments.models.encoder_decoder import PAD, EncoderDecoder, build_encoder_decoder
from tests.experiments.models.fairseq_names import from_fairseq
from tests.experiments.models.sentences import WORDS, options, shape

WIDTH = 16


@contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings of fairseq's age."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def pair(shared: str, layers: int = 2, **changes: Any) -> tuple[nn.Module, EncoderDecoder]:
    """fairseq's `transformer_iwslt_de_en`, small, and ours with its weights, in evaluation mode."""
    with quiet():
        pytest.importorskip("fairseq")
        from fairseq.models.transformer import TransformerModel
        from fairseq.models.transformer.transformer_legacy import transformer_iwslt_de_en

        dims = shape(WIDTH)
        sides = ("encoder", "decoder")
        args = Namespace(
            **{f"{side}_embed_dim": dims.d_model for side in sides},
            **{f"{side}_ffn_embed_dim": dims.d_ffn for side in sides},
            **{f"{side}_attention_heads": dims.n_head for side in sides},
            **{f"{side}_layers": layers for side in sides},
            share_decoder_input_output_embed=shared != "none",
            share_all_embeddings=shared == "all",
            **changes,
        )
        transformer_iwslt_de_en(args)
        words = dictionary()
        task = SimpleNamespace(source_dictionary=words, target_dictionary=words)
        theirs = TransformerModel.build_model(args, task).eval()
    ours = build_encoder_decoder(dims, options(shared, layers, **changes), None).eval()
    ours.load_state_dict(from_fairseq(theirs.state_dict()))
    return theirs, ours


def dictionary() -> Any:
    """fairseq's dictionary of `WORDS` ids."""
    from fairseq.data import Dictionary

    words = Dictionary()
    for i in range(WORDS - len(words)):
        words.add_symbol(f"word{i}")
    return words


def generate(
    model: nn.Module, source_BS: Tensor, beam: int, length_penalty: float
) -> list[list[tuple[list[int], float]]]:
    """Tokens without </s> and score of each sentence's hypotheses by fairseq's beam search."""
    with quiet():
        from fairseq.sequence_generator import SequenceGenerator

        generator = SequenceGenerator(
            [model],
            dictionary(),
            beam_size=beam,
            max_len_a=1.2,
            max_len_b=10,
            len_penalty=length_penalty,
        )
        lengths_B = source_BS.ne(PAD).sum(1)
        net_input = {"src_tokens": source_BS, "src_lengths": lengths_B}
        found = generator.generate([model], {"net_input": net_input})
    return [[(h["tokens"].tolist()[:-1], h["score"].item()) for h in hyps] for hyps in found]
