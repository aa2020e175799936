"""A finished run of a network that was never trained, in a moment."""

import numpy as np
import saved
import tiny

from Model import Model
from runs import record as records
from runs import weights
from sources import shapes


def save_run(folder, **changes):
    """Write a run's weights and record; gives its ``Model``."""
    configs = tiny.model_configs()
    model = Model(configs)
    generator = np.random.default_rng(1)
    # Moving statistics too are unlike those of a new network, whose batch norms do nothing.
    values = [0.5 + generator.random(w.shape, np.float32) for w in model.network.get_weights()]
    model.network.set_weights([v / v.size**0.5 if v.ndim > 1 else v for v in values])
    model.mean = generator.random((32, 32, 3), np.float32)
    folder.mkdir(parents=True, exist_ok=True)
    record = {
        **saved.FINISHED,
        "class_names": list(shapes.CLASS_NAMES),
        "model_configs": configs,
        "training_configs": tiny.training_configs(dataset="shapes"),
        "parameters": model.network.count_params(),
        **changes,
        **weights.save_weights(folder, model.network, model.mean),
    }
    records.write_record(folder, record)
    return model
