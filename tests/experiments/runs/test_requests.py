"""What jobs of a cluster ask for."""

import pytest

from experiments.runs import grouping
from experiments.runs.memory import PROCESS
from experiments.runs.planning import Speed, Timed, shape, step_flops
from experiments.runs.requests import MARGIN, SPARE_MINUTES, megabytes, minutes
from tests.tiny_runs import tiny_run


def test_time_is_what_is_predicted_with_a_margin_and_grows_with_attempts() -> None:
    run = tiny_run(steps=6000)
    times = {shape(run): Timed(run.family, run.describe(), step_flops(run), seconds=0.1, start=0.0)}
    speed = Speed(times, process=0.0)
    assert minutes([run], speed) == SPARE_MINUTES + MARGIN * 10
    assert minutes([run], speed, attempt=3) == 3 * minutes([run], speed)
    two = [run, tiny_run(steps=6000, seed=1)]
    assert minutes(two, speed) == SPARE_MINUTES + MARGIN * 20
    assert minutes(two, speed, cores=2) == minutes([run], speed)
    assert minutes([], speed, attempt=2) == 2 * SPARE_MINUTES


def test_time_does_without_times_of_this_machine() -> None:
    run = tiny_run(width=1024, steps=6000)
    assert minutes([run], Speed()) > MARGIN * grouping.cost(run) / 60


def test_memory_is_that_of_the_largest_model_in_every_process() -> None:
    small, large = tiny_run(), tiny_run(width=8192, n_layer=4)
    least = megabytes([])
    assert least == PROCESS / 1e6
    assert megabytes([small]) == pytest.approx(least, rel=0.01)
    weights = 12 * 8192**2 * 4
    assert megabytes([small, large]) >= least + 16 * weights / 1e6
    assert megabytes([large, small], attempt=2, cores=3) == 6 * megabytes([large])


def test_memory_of_a_stack_is_that_of_the_runs_that_a_job_trains_together() -> None:
    wide = [tiny_run(width=4096, seed=seed) for seed in range(3)]
    alone = tiny_run(width=4096, precision="float16")  # never stacked
    least = megabytes([])
    weights = megabytes(wide[:1]) - least
    assert weights > 1000
    for stack, members in ((1, 1), (2, 2), (8, 3), (None, 1)):
        found = megabytes([*wide, tiny_run()], stack=stack) - least
        assert found == pytest.approx(members * weights, abs=1)
    assert megabytes([alone] * 3, stack=8) == megabytes([alone])


def test_time_of_a_stack_is_that_of_its_members() -> None:
    """Three together take 0.3 s a step, and one that is left alone as long as it takes alone."""
    runs = [tiny_run(steps=6000, seed=seed) for seed in range(4)]
    one = runs[0]
    times = Timed(one.family, one.describe(), step_flops(one), 0.1, 0.0, members=3, alone=0.2)
    speed = Speed({shape(one): times}, process=0.0)
    assert minutes(runs[:3], speed) == SPARE_MINUTES + MARGIN * 30
    assert minutes(runs, speed) == SPARE_MINUTES + MARGIN * (30 + 20)
