"""Schedules of the learning rate and of the size of the images, as closed forms."""

from __future__ import annotations

import math

import Configure


def learning_rate(step: int, steps_per_epoch: int, configs: dict) -> float:
    """Return the learning rate of one step.

    Warm-up goes first, in a straight line from ``learning_rate / warm-up steps`` on; the schedule
    covers what is left of the run.

    Args:
        step: completed steps of the whole run, >= 0.
        steps_per_epoch: > 0.
        configs: keys ``learning_rate``, ``schedule``, ``epochs``, ``warmup_epochs``, ``eta_min``,
            ``t_0``, ``t_mult`` of Configure.py.
    """
    eta_max, eta_min = configs["learning_rate"], configs["eta_min"]
    warmup, schedule = configs["warmup_epochs"] * steps_per_epoch, configs["schedule"]
    if step < warmup:
        return eta_max * (step + 1) / warmup
    epoch = (step - warmup) / steps_per_epoch
    total = configs["epochs"] - configs["warmup_epochs"]
    if schedule == "constant":
        return eta_max
    if schedule == "steps":
        return eta_max * _example_factor(epoch / total)
    if schedule == "linear":
        share_left = 1 - epoch / total
    else:  # cosine
        share = _share_of_period(epoch, configs["t_0"] or total, configs["t_mult"])
        share_left = (1 + math.cos(math.pi * share)) / 2
    return eta_min + (eta_max - eta_min) * share_left


def work(epochs: float, configs: dict) -> float:
    """Return the work of a run's first epochs, in epochs on whole images.

    Args:
        epochs: of the run, from its start on, >= 0.
        configs: keys ``small_share`` and ``epochs`` of Configure.py.
    """
    return epochs - 7 / 16 * min(epochs, Configure.small_epochs(configs))  # a shrunk image has 9/16


def _example_factor(share: float) -> float:
    """Return the factor of the Keras example, its 200 epochs taken as the whole run."""
    # It compares its epochs, counted from 0, by > 180, > 160, > 120 and > 80.
    for epoch, factor in ((181, 0.5e-3), (161, 1e-3), (121, 1e-2), (81, 1e-1)):
        if share >= epoch / 200:
            return factor
    return 1.0


def _share_of_period(epoch: float, period: float, factor: float) -> float:
    """Return T_cur / T_i (arXiv:1608.03983, eq. 5): each period is ``factor`` times the last."""
    while epoch >= period:
        epoch -= period
        period *= factor
    return epoch / period
