"""How a configuration becomes a model, augmented batches and a loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.data import imagenet
from experiments.data.augment import apply, draw_crop_flip, normalize
from experiments.data.classification import accuracy, index_batches, subset
from experiments.data.held import sent
from experiments.data.images import load_images
from experiments.families.wide_resnet_imagenet.spec import BLOCKS, WideResNetConfig
from experiments.models.wide_resnet import (
    WideResNet,
    WideResNetOptions,
    WideResNetShape,
    build_wide_resnet,
)

PAD = 8  # pixels of reflected padding before the random crop of an image of 64 x 64


class Photographs(Protocol):
    """Where inputs (B, C, H, W) come from."""

    train_labels: Tensor
    valid_labels: Tensor
    classes: int
    fingerprint: str

    def place(self, device: str) -> torch.device:
        """Where indices of images should be."""

    def draw(self, generator: torch.Generator, batch: int) -> Any:
        """How the images of a batch are changed."""

    def train(self, index_B: Tensor, drawn: Any, device: torch.device) -> Tensor:
        """Training images, changed as drawn."""

    def labels(self, index_B: Tensor, device: torch.device) -> Tensor:
        """Labels (B,) of training images."""

    def valid(self, part: slice, device: torch.device) -> Tensor:
        """Held-out images, unchanged."""


class Tiny:
    """Tiny-ImageNet, decoded: crops of the images' own size, and mirrored."""

    def __init__(self, source: str):
        self.images = load_images(source)
        self.train_labels, self.valid_labels = self.images.train_labels, self.images.valid_labels
        self.classes, self.fingerprint = self.images.classes, self.images.fingerprint

    def place(self, device: str) -> torch.device:
        return self.images.place(device)

    def draw(self, generator: torch.Generator, batch: int) -> Any:
        return draw_crop_flip(generator, batch, self.images.train.shape[-1], PAD)

    def train(self, index_B: Tensor, drawn: Any, device: torch.device) -> Tensor:
        images = self.images
        return apply(images.batch(index_B, device), drawn, images.mean, images.std)

    def labels(self, index_B: Tensor, device: torch.device) -> Tensor:
        return self.images.labels(index_B, device)

    def valid(self, part: slice, device: torch.device) -> Tensor:
        images = self.images
        return normalize(images.valid[part].to(device), images.mean, images.std)


class Full:
    """ImageNet, decoded batch by batch: crops of random size and shape, and mirrored."""

    def __init__(self) -> None:
        self.images = imagenet.load_imagenet()
        self.train_labels = self.images["train"].labels
        self.valid_labels = self.images["valid"].labels
        self.classes = int(self.train_labels.max()) + 1
        self.fingerprint = self.images["train"].fingerprint

    def place(self, device: str) -> torch.device:
        return torch.device("cpu")  # where they are decoded

    def draw(self, generator: torch.Generator, batch: int) -> Any:
        return imagenet.draw_crops(generator, batch)

    def train(self, index_B: Tensor, drawn: Any, device: torch.device) -> Tensor:
        images = sent(self.images["train"].decode(index_B, drawn), device)
        return normalize(images, imagenet.MEAN, imagenet.STD)

    def labels(self, index_B: Tensor, device: torch.device) -> Tensor:
        return sent(self.train_labels[index_B], device)

    def valid(self, part: slice, device: torch.device) -> Tensor:
        index = torch.arange(part.start, part.stop)
        return normalize(self.images["valid"].decode(index).to(device), imagenet.MEAN, imagenet.STD)


class Classification:
    """Classification of photographs by a wide ResNet.

    Args:
        config: of the run.

    A batch is the indices of its images and what is drawn to change them, so that skipping one is
    cheap. Both come from the seed alone.
    """

    def __init__(self, config: WideResNetConfig):
        self.config = config
        self.images: Photographs = Full() if config.data == "imagenet" else Tiny(config.data)
        self.fingerprint = self.images.fingerprint
        self.count = subset(self.images.train_labels, config.images, config.batch_size)

    def build(self) -> nn.Module:
        return build(self.config, self.images.classes)

    def batches(self, device: str) -> Iterator[tuple[Tensor, Any]]:
        generator = torch.Generator().manual_seed(self.config.seed + 1)
        place = self.images.place(device)
        for index_B in index_batches(self.count, self.config.batch_size, self.config.seed, place):
            yield index_B, self.images.draw(generator, len(index_B))

    def loss(self, model: nn.Module, batch: tuple[Tensor, Any]) -> Tensor:
        return self.objective(model, *self.inputs(batch, next(model.parameters()).device))

    def inputs(self, batch: tuple[Tensor, Any], device: torch.device) -> tuple[Tensor, Tensor]:
        """Changed images (B, C, H, W) and labels (B,)."""
        return self.images.train(*batch, device), self.images.labels(batch[0], device)

    def objective(self, model: Callable[[Tensor], Tensor], *inputs: Tensor) -> Tensor:
        x_BCHW, labels_B = inputs
        smoothing = self.config.label_smoothing
        return F.cross_entropy(model(x_BCHW), labels_B, label_smoothing=smoothing)

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        device = next(model.parameters()).device

        def forward(part: slice) -> Tensor:
            outputs: Tensor = model(self.images.valid(part, device))
            return outputs

        def loss(logits_BK: Tensor, labels_B: Tensor) -> Tensor:
            return F.cross_entropy(logits_BK, labels_B.to(device))

        return accuracy(forward, self.images.valid_labels, loss)


def build(config: WideResNetConfig, classes: int) -> WideResNet:
    """The model of a configuration, on torch's default device, its channels last in memory."""
    options = WideResNetOptions(
        classes,
        blocks=BLOCKS,
        output_mult=config.output_mult,
        init_std=config.init_std,
        zero_readout=config.zero_readout,
    )
    mup = config.parametrization == "mup"
    base = WideResNetShape.of(config.base_width / 64) if mup else None
    model = build_wide_resnet(WideResNetShape.of(config.width / 64), options, base)
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]
