"""The training loop, its step, and the layers, optimizers and schedules that it uses."""
