"""How a configuration becomes a model, batches and a loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.data.classification import index_batches, subset
from experiments.data.images import load_images
from experiments.families.mlp_cifar10.spec import MlpConfig
from experiments.models.mlp import Mlp, MlpOptions, MlpShape, build_mlp
from experiments.train.parts import Part


class ImageRegression:
    """Classification of images by an MLP, with cross-entropy or with squared error.

    Args:
        config: of the run.

    Batches are indices of images, in an order that the seed alone decides, a new one each epoch.
    Pixels are scaled to -1 to 1. The squared error is against one-hot targets less their mean.
    Nothing is measured at the end, as the paper judges MLPs by their training loss: so a short run
    is the beginning of a longer one.
    """

    def __init__(self, config: MlpConfig):
        self.config = config
        self.images = load_images(config.data)
        self.fingerprint = self.images.fingerprint
        self.count = subset(self.images.train_labels, config.images, config.batch_size)

    def build(self) -> nn.Module:
        return build(self.config, self.images.train[0].numel(), self.images.classes)

    def batches(self, device: str) -> Iterator[Tensor]:
        place = self.images.place(device)
        return index_batches(self.count, self.config.batch_size, self.config.seed, place)

    def loss(self, model: nn.Module, batch: Tensor) -> Tensor:
        device = next(model.parameters()).device
        return self.objective(model, *self.inputs(batch, device))

    def inputs(self, batch: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
        """Images (B, C, H, W) and labels (B,), or what squared error is taken against (B, K)."""
        images_BCHW = self.images.batch(batch, device).float().mul_(2 / 255).sub_(1)
        labels_B = self.images.labels(batch, device)
        if self.config.loss == "xent":
            return images_BCHW, labels_B
        classes = self.images.classes
        return images_BCHW, F.one_hot(labels_B, classes).float() - 1 / classes

    def part(self, model: nn.Module, batch: Tensor, part: Part) -> Tensor:
        return self.loss(model, part.rows(batch)) * (len(part.rows(batch)) / len(batch))

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        return {}

    def objective(self, model: Callable[[Tensor], Tensor], *inputs: Tensor) -> Tensor:
        images_BCHW, wanted = inputs
        error = F.cross_entropy if self.config.loss == "xent" else F.mse_loss
        return error(model(images_BCHW), wanted)


def build(config: MlpConfig, d_in: int, classes: int) -> Mlp:
    """The model of a configuration, on torch's default device."""
    shared = MlpOptions.__dataclass_fields__.keys() & MlpConfig.model_fields
    options = MlpOptions(d_in, classes, **{name: getattr(config, name) for name in shared})
    base = MlpShape(config.base_width) if config.parametrization == "mup" else None
    return build_mlp(MlpShape(config.width), options, base, config.t)
