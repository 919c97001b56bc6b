"""How a configuration becomes a model, batches and a loss."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor, nn
from transformers import DataCollatorForLanguageModeling, PreTrainedTokenizerFast

from experiments.data.glue import glue_fingerprint
from experiments.data.held import sent
from experiments.data.pretraining import load_text
from experiments.data.pretraining_source import BUILT_IN
from experiments.data.windows import count_windows, window_batches
from experiments.families.bert.config import BertConfig
from experiments.families.bert.finetuning import finetune
from experiments.models.bert import Bert, BertOptions, build_bert
from experiments.models.cross_entropy import IGNORED, cross_entropy
from experiments.models.timing import step_seconds
from experiments.models.transformer import TransformerShape
from experiments.train.parts import Part

MEASURED = 65_536  # tokens of a held-out split, at most, of which the loss is taken
Batch = tuple[Tensor, int]


class MaskedLanguageModeling:
    """Prediction of masked word pieces on windows of the training split.

    Args:
        config: of the run.

    A batch is (B, L - 2) token numbers and a seed, from which `loss` draws what is masked.
    """

    def __init__(self, config: BertConfig):
        self.config = config
        text = load_text(config.data, config.vocab_size, "wordpiece")
        self.fingerprint = text.fingerprint
        self.tokens = {split: torch.from_numpy(ids.copy()) for split, ids in text.tokens.items()}
        count_windows(self.tokens["train"], config.seq_len - 2, config.batch_size)
        count_windows(self.tokens["test"], config.seq_len - 2, 1)
        signs = ("pad", "unk", "cls", "sep", "mask")
        self.tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
            tokenizer_object=text.tokenizer,
            **{f"{sign}_token": f"[{sign.upper()}]" for sign in signs},
        )
        self.collator = DataCollatorForLanguageModeling(self.tokenizer, seed=0)
        # The built-in text comes without GLUE, so that nothing is finetuned with it.
        self.finetunes = config.finetune_examples > 0 and config.data != BUILT_IN
        if self.finetunes:
            parts = f"{self.fingerprint} {glue_fingerprint()}"
            self.fingerprint = hashlib.sha256(parts.encode()).hexdigest()[:16]

    def build(self) -> nn.Module:
        return build(self.config)

    def batches(self, device: str) -> Iterator[Batch]:
        config, seeds = self.config, torch.Generator().manual_seed(self.config.seed)
        tokens, length = self.tokens["train"], config.seq_len - 2
        for windows in window_batches(tokens, length, config.batch_size, config.seed):
            yield windows, int(torch.randint(2**31, (), generator=seeds))

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Mean cross-entropy of the masked word pieces, in nats; 0 if chance masked none."""
        return self.part(model, batch, Part(0, 1))

    def part(self, model: nn.Module, batch: Batch, part: Part) -> Tensor:
        read_BL, wanted_BL = self.masked(*batch)
        device = next(model.parameters()).device
        pieces = sent((wanted_BL != IGNORED).sum(), device)
        logits_BLV, wanted_BL = model(sent(part.rows(read_BL), device)), part.rows(wanted_BL)
        return cross_entropy(logits_BLV.flatten(0, 1), sent(wanted_BL.flatten(), device), pieces)

    def masked(self, windows: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """What the model reads and what it has to predict, (B, L), by the library's collator."""
        signs = (self.tokenizer.cls_token_id, self.tokenizer.sep_token_id)
        first, last = (torch.full((len(windows), 1), sign) for sign in signs)
        whole_BL = torch.cat([first, windows.long(), last], dim=1)
        self.collator.generator = torch.Generator().manual_seed(seed)
        special_BL = whole_BL < 5
        read_BL, wanted_BL = self.collator.torch_mask_tokens(whole_BL, special_BL)
        return read_BL, wanted_BL

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Loss on the first windows of the test split, with the same masks for every model.

        Beside it the time of a step, and accuracies after finetuning if the run asks for them.
        """
        length, size = self.config.seq_len - 2, self.config.batch_size
        count = min(len(self.tokens["test"]), MEASURED) // length
        windows = self.tokens["test"][: count * length].view(count, length)
        total, predicted = 0.0, 0
        for i, part in enumerate(torch.split(windows, size)):
            pieces = int((self.masked(part, i)[1] != IGNORED).sum())
            total += self.loss(model, (part, i)).item() * pieces
            predicted += pieces
        batch = next(self.batches("cpu"))
        seconds = step_seconds(model, lambda timed: self.loss(timed, batch))
        metrics = {"test_loss": total / predicted, "step_seconds": seconds}
        if self.finetunes:
            metrics |= finetune(cast(Bert, model), self.tokenizer, self.config)
        return metrics


def build(config: BertConfig) -> Bert:
    """The model of a configuration, on torch's default device."""
    embed = config.log2lr if config.embed_log2lr is None else config.embed_log2lr
    options = BertOptions(
        vocab_size=config.vocab_size,
        seq_len=config.seq_len,
        n_layer=config.n_layer,
        dropout=config.dropout,
        output_mult=config.output_mult,
        attn_mult=config.attn_mult,
        embed_factor=2.0 ** (embed - config.log2lr),
        gain_mult=config.gain_mult,
        bias_mult=config.bias_mult,
    )
    mup = config.parametrization == "mup"
    base = TransformerShape(**config.dims(base=True)) if mup else None
    return build_bert(TransformerShape(**config.dims()), options, base)
