"""training/schedules.py: learning rates in closed form."""

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from Configure import training_configs
from training.schedules import learning_rate, work

STEPS_PER_EPOCH = 7


def scheduled(schedule, epochs=20, **overrides):
    """The rate as a function of the epoch, whole or not, of a run at 0.5."""
    configs = {**training_configs, "learning_rate": 0.5, "schedule": schedule, "epochs": epochs}
    configs.update(overrides)

    def at(epoch, step=0):
        return learning_rate(epoch * STEPS_PER_EPOCH + step, STEPS_PER_EPOCH, configs)

    return at


def cosine(share, low=0.0, high=0.5):
    return low + (high - low) * (1 + math.cos(math.pi * share)) / 2


def keras_example_rate(epoch):
    """``lr_schedule`` of keras-team/keras, examples/cifar10_resnet.py at v2.3.0."""
    lr = 1e-3
    if epoch > 180:
        lr *= 0.5e-3
    elif epoch > 160:
        lr *= 1e-3
    elif epoch > 120:
        lr *= 1e-2
    elif epoch > 80:
        lr *= 1e-1
    return lr


def test_constant_is_constant():
    rate_at = scheduled("constant")
    assert {rate_at(epoch) for epoch in range(20)} == {0.5}


def test_steps_of_200_epochs_are_those_of_the_keras_example():
    rate_at = scheduled("steps", 200, learning_rate=1e-3)
    for epoch in range(200):
        expected = pytest.approx(keras_example_rate(epoch), rel=1e-12)
        for step in range(STEPS_PER_EPOCH):
            assert rate_at(epoch, step) == expected, (epoch, step)


def test_steps_of_another_run_come_at_the_same_shares():
    rate_at = scheduled("steps", 20)
    shares = [rate_at(epoch) / 0.5 for epoch in range(20)]
    # Of the example's > 80, > 120, > 160, > 180 of 200: > 8, > 12, > 16, > 18 of 20.
    expected = [1] * 9 + [1e-1] * 4 + [1e-2] * 4 + [1e-3] * 2 + [5e-4]
    assert shares == pytest.approx(expected, rel=1e-12)


def test_the_shortest_run_has_all_of_the_steps():
    rate_at = scheduled("steps", 1)
    shares = [rate_at(0, step) / 0.5 for step in range(STEPS_PER_EPOCH)]
    assert shares == pytest.approx([1, 1, 1, 1e-1, 1e-1, 1e-2, 1e-3], rel=1e-12)
    assert scheduled("steps", 2)(1, 6) / 0.5 == pytest.approx(5e-4)


@pytest.mark.parametrize("low", [0.0, 0.1])
def test_cosine_goes_from_the_highest_to_the_lowest_rate_once(low):
    rate_at = scheduled("cosine", eta_min=low)
    assert rate_at(0) == 0.5
    assert rate_at(10) == pytest.approx((0.5 + low) / 2)
    assert rate_at(5) == pytest.approx(low + (0.5 - low) * (2 + math.sqrt(2)) / 4)
    last = 20 * STEPS_PER_EPOCH - 1
    assert rate_at(0, last) == pytest.approx(cosine(last / (last + 1), low))
    assert low < rate_at(0, last) < low + 1e-4
    rates = [rate_at(0, step) for step in range(last + 1)]
    assert all(one > other for one, other in itertools.pairwise(rates))


@pytest.mark.parametrize("low", [0.0, 0.1])
def test_linear_goes_from_the_highest_to_the_lowest_rate_in_equal_steps(low):
    rate_at, last = scheduled("linear", eta_min=low), 20 * STEPS_PER_EPOCH
    expected = [low + (0.5 - low) * (1 - step / last) for step in range(last)]
    assert [rate_at(0, step) for step in range(last)] == pytest.approx(expected)


def test_restarts_come_after_2_and_6_epochs_if_each_period_is_twice_the_last():
    rate_at = scheduled("cosine", 14, t_0=2, t_mult=2, eta_min=0.1)
    for start_epoch, period in ((0, 2), (2, 4), (6, 8)):
        for step in range(period * STEPS_PER_EPOCH):
            expected = cosine(step / (period * STEPS_PER_EPOCH), 0.1)
            assert rate_at(start_epoch, step) == pytest.approx(expected), (start_epoch, step)
    rates = [rate_at(0, step) for step in range(14 * STEPS_PER_EPOCH)]
    rises = [step for step in range(1, len(rates)) if rates[step] > rates[step - 1]]
    assert rises == [2 * STEPS_PER_EPOCH, 6 * STEPS_PER_EPOCH]


def test_restarts_are_regular_if_the_periods_do_not_grow():
    rate_at = scheduled("cosine", 9, t_0=3, t_mult=1)
    assert [rate_at(epoch) for epoch in range(9)] == pytest.approx([0.5, 0.375, 0.125] * 3)


@pytest.mark.parametrize("schedule", ["constant", "steps", "linear", "cosine"])
def test_warm_up_is_a_straight_line_that_ends_where_the_schedule_starts(schedule):
    rate_at = scheduled(schedule, 20, warmup_epochs=3)
    warmup = 3 * STEPS_PER_EPOCH
    rates = [rate_at(0, step) for step in range(warmup + 1)]
    assert rates[:-1] == pytest.approx([0.5 * (step + 1) / warmup for step in range(warmup)])
    assert rates[-2] == rates[-1] == 0.5


@pytest.mark.parametrize("schedule", ["steps", "linear", "cosine"])
def test_after_the_warm_up_the_schedule_fills_the_rest_of_the_run(schedule):
    warmed, plain = scheduled(schedule, 20, warmup_epochs=3), scheduled(schedule, 17)
    for step in range(17 * STEPS_PER_EPOCH):
        assert warmed(3, step) == pytest.approx(plain(0, step))


@settings(max_examples=50)
@given(
    st.sampled_from(["constant", "steps", "linear", "cosine"]),
    st.integers(1, 60),
    st.integers(0, 10),
    st.integers(0, 5),
    st.integers(1, 3),
    st.floats(0, 0.4),
    st.floats(0, 1, exclude_max=True),
)
def test_the_rate_never_leaves_its_range(schedule, epochs, warmup, t_0, t_mult, eta_min, share):
    overrides = {"t_0": t_0, "t_mult": t_mult, "eta_min": eta_min}
    rate_at = scheduled(schedule, epochs + warmup, warmup_epochs=warmup, **overrides)
    step = int(share * (epochs + warmup) * STEPS_PER_EPOCH)
    in_warmup = step < warmup * STEPS_PER_EPOCH
    assert (
        (eta_min if schedule in ("linear", "cosine") and not in_warmup else 0)
        <= rate_at(0, step)
        <= 0.5
    )


def test_the_work_of_small_epochs_is_nine_sixteenths():
    configs = {"small_share": 0.5, "epochs": 8}
    assert [work(epochs, configs) for epochs in (0, 2, 4, 8)] == [0, 1.125, 2.25, 6.25]
    assert work(8, {**configs, "small_share": 0.0}) == 8
