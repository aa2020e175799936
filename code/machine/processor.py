"""What this machine is, and in which precision it computes fast."""

from __future__ import annotations

import os
import platform
from pathlib import Path

BFLOAT16_FLAGS = ("avx512_bf16", "amx_bf16")


def processor() -> tuple[str, frozenset[str]]:
    """The processor's name and its feature flags (no flags where the system does not tell).

    Its family and model are part of the name: a virtual machine may call all of them "AMD EPYC".
    """
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine(), frozenset()
    fields = dict(
        (part.strip() for part in line.split(":", 1)) for line in text.splitlines() if ":" in line
    )
    name = [fields.get("model name", platform.machine())]
    name += [f"{key} {fields[key]}" for key in ("cpu family", "model") if key in fields]
    return ", ".join(name), frozenset(fields.get("flags", "").split())


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def has_gpu() -> bool:
    """If TensorFlow sees a GPU."""
    import tensorflow as tf

    return bool(tf.config.list_physical_devices("GPU"))


def choose_precision(requested: str) -> tuple[str, str]:
    """Resolve "auto", and say why.

    bfloat16 is 10 to 30 times slower than float32 on a processor that does not compute in it, or
    with oneDNN off: so "auto" takes it only where both are seen.

    Args:
        requested: "auto", "float32" or "bfloat16".

    Returns:
        "float32" or "bfloat16", and one line of reason.
    """
    if requested != "auto":
        return requested, "as asked"
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        capabilities = [
            tf.config.experimental.get_device_details(gpu).get("compute_capability", (0, 0))
            for gpu in gpus
        ]
        if min(capabilities) >= (8, 0):
            return "bfloat16", "every GPU has compute capability 8.0 or more"
        return "float32", "a GPU has a compute capability below 8.0"
    found = sorted(set(BFLOAT16_FLAGS) & processor()[1])
    if not found:
        return "float32", f"the processor has none of {', '.join(BFLOAT16_FLAGS)}"
    if os.environ.get("TF_ENABLE_ONEDNN_OPTS", "1").lower() in ("0", "false"):
        return "float32", "oneDNN is off (TF_ENABLE_ONEDNN_OPTS)"
    return "bfloat16", f"the processor has {' and '.join(found)}, and oneDNN is on"


def describe() -> dict:
    """The machine, for the record of a run."""
    import tensorflow as tf

    return {
        "processor": processor()[0],
        "cores": cores(),
        "gpus": [
            tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name)
            for gpu in tf.config.list_physical_devices("GPU")
        ],
        "system": f"{platform.system()} {platform.machine()}",
    }


def versions() -> dict:
    """Versions of the packages that results depend on."""
    import keras
    import numpy as np
    import tensorflow as tf

    return {"tensorflow": tf.__version__, "keras": keras.__version__, "numpy": np.__version__}
