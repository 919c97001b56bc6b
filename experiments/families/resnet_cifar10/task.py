"""How a configuration becomes a model, augmented batches and a loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.data.augment import CropFlip, apply, draw_crop_flip, normalize
from experiments.data.classification import accuracy, index_batches, subset
from experiments.data.images import load_images
from experiments.families.resnet_cifar10.spec import PAD, ResNetConfig
from experiments.models.resnet import ResNet, ResNetOptions, ResNetShape, build_resnet

Batch = tuple[Tensor, CropFlip]


class Classification:
    """Classification of small images, cropped, flipped and partly cut out at random.

    Args:
        config: of the run.

    A batch is the indices of its images and what is drawn to change them, so that skipping one is
    cheap. Both come from the seed alone.
    """

    def __init__(self, config: ResNetConfig):
        self.config = config
        self.images = load_images(config.data)
        self.fingerprint = self.images.fingerprint
        self.count = subset(self.images.train_labels, config.images, config.batch_size)

    def build(self) -> nn.Module:
        return build(self.config, self.images.train.shape[1], self.images.classes)

    def batches(self, device: str) -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(self.config.seed + 1)
        size = self.images.train.shape[-1]
        hole = self.config.hole(size)
        place = self.images.place(device)
        for index_B in index_batches(self.count, self.config.batch_size, self.config.seed, place):
            yield index_B, draw_crop_flip(generator, len(index_B), size, PAD, hole)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return self.objective(model, *self.inputs(batch, next(model.parameters()).device))

    def inputs(self, batch: Batch, device: torch.device) -> tuple[Tensor, Tensor]:
        """Changed images (B, C, H, W) and labels (B,)."""
        index_B, changes = batch
        images = self.images
        x_BCHW = apply(images.batch(index_B, device), changes, images.mean, images.std)
        return x_BCHW, images.labels(index_B, device)

    def objective(self, model: Callable[[Tensor], Tensor], *inputs: Tensor) -> Tensor:
        x_BCHW, labels_B = inputs
        return self._loss(model(x_BCHW), labels_B)

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        images, device = self.images, next(model.parameters()).device

        def forward(part: slice) -> Tensor:
            outputs: Tensor = model(
                normalize(images.valid[part].to(device), images.mean, images.std)
            )
            return outputs

        return accuracy(forward, images.valid_labels, self._loss)

    def _loss(self, logits_BK: Tensor, labels_B: Tensor) -> Tensor:
        return F.cross_entropy(logits_BK, labels_B.to(logits_BK.device))


def build(config: ResNetConfig, in_channels: int, classes: int) -> ResNet:
    """The model of a configuration, on torch's default device, its channels last in memory."""
    options = ResNetOptions(
        classes,
        in_channels,
        output_mult=config.output_mult,
        init_std=config.init_std,
        zero_readout=config.zero_readout,
    )
    base = _shape(config.base_width) if config.parametrization == "mup" else None
    model = build_resnet(_shape(config.width), options, base)
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def _shape(width: int) -> ResNetShape:
    return ResNetShape((width, 2 * width, 4 * width, 8 * width))
