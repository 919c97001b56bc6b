"""Names of the learning-rate schedules; `experiments.train.schedules` has their factors.

Source: Tensor Programs V, caption of Fig. 4: (a) linear decay, (b) and (c) two step decays,
(d) cosine, (e) constant, (f) inverse square root.
"""

from __future__ import annotations

from typing import Literal, get_args

Schedule = Literal["linear", "step_a", "step_b", "cosine", "constant", "inv_sqrt"]
SCHEDULES: tuple[Schedule, ...] = get_args(Schedule)  # (a) to (f)
TITLES: dict[Schedule, str] = {  # for readers
    "linear": "linear decay",
    "step_a": "steps of 0.1",
    "step_b": "steps of 0.3",
    "cosine": "cosine",
    "constant": "constant",
    "inv_sqrt": "inverse root",
}
# Schedules whose factor at a step does not depend on the number of steps: a shorter run is the
# beginning of a longer one.
OPEN_ENDED = frozenset({"constant", "inv_sqrt"})
