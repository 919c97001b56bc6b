"""One thread: steps this small are slower with two, by factors on a busy machine."""

import torch

torch.set_num_threads(1)
