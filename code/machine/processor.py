"""What this machine is, on which kernels and in which precision it computes fast."""

from __future__ import annotations

import gc
import os
import platform
import sys
from pathlib import Path
from typing import NamedTuple


class Processor(NamedTuple):
    """What the system tells about the processor."""

    # With family and model: a virtual machine may call all of them "AMD EPYC".
    name: str
    vendor: str = ""
    flags: frozenset[str] = frozenset()


def processor() -> Processor:
    """The processor; its name alone where the system does not tell more."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return Processor(platform.processor() or platform.machine())
    fields = dict(
        (part.strip() for part in line.split(":", 1)) for line in text.splitlines() if ":" in line
    )
    name = [fields.get("model name", platform.machine())]
    name += [f"{key} {fields[key]}" for key in ("cpu family", "model") if key in fields]
    flags = frozenset(fields.get("flags", "").split())
    return Processor(", ".join(name), fields.get("vendor_id", ""), flags)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def count_gpus() -> int:
    """GPUs that TensorFlow sees."""
    import tensorflow as tf

    return len(tf.config.list_physical_devices("GPU"))


def choose_kernels() -> None:
    """Choose TensorFlow's kernels; it must come before TensorFlow is imported.

    TensorFlow turns oneDNN on by itself only on processors with AVX-512 VNNI, BF16 or AMX; on any
    other x86 processor training is 1.3 to 1.7 times as fast with it. A variable that is set stays.
    """
    os.environ["KERAS_BACKEND"] = "tensorflow"
    if platform.machine().lower() in ("x86_64", "amd64"):
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")


def prepare_tensorflow() -> None:
    """Choose the kernels and import TensorFlow, without the lines that it writes while loading.

    What a person's keras.json says of layouts and types is for other programs.
    """
    choose_kernels()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stderr.flush()
    kept, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    gc.disable()  # a seventh of the import's time; nearly all that it makes stays
    try:
        os.dup2(null, 2)
        import keras
        import tensorflow as tf

        keras.config.set_image_data_format("channels_last")
        keras.config.set_floatx("float32")
        tf.config.list_physical_devices()
        # On a GPU float32 would be TF32, with 10 bits of mantissa.
        tf.config.experimental.enable_tensor_float_32_execution(False)
        tf.get_logger().setLevel("ERROR")  # it warns where one process makes several networks
    finally:
        gc.enable()
        os.dup2(kept, 2)
        os.close(kept)
        os.close(null)


def kernels() -> str:
    """The library whose kernels TensorFlow was told to use on the processor."""
    asked = os.environ.get("TF_ENABLE_ONEDNN_OPTS")
    if asked is None:
        return "TensorFlow's default"
    return "Eigen" if asked.lower() in ("0", "false") else "oneDNN"


def choose_precision(requested: str) -> tuple[str, str]:
    """Resolve "auto", and say why.

    bfloat16 is 10 to 30 times slower than float32 on a processor that does not compute in it, or
    with oneDNN off. With AVX512-BF16 it is faster on AMD's processors, but takes 1.45 times as
    long as float32 on an Intel Xeon (model 207) without AMX.

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
    this = processor()
    needed = "amx_bf16" if this.vendor == "GenuineIntel" else "avx512_bf16"
    if needed not in this.flags:
        return "float32", f"bfloat16 is not faster on this processor: it has no {needed}"
    if kernels() == "Eigen":
        return "float32", "oneDNN is off (TF_ENABLE_ONEDNN_OPTS)"
    return "bfloat16", f"the processor has {needed}, and oneDNN is on"


def describe() -> dict:
    """The machine, for the record of a run."""
    import tensorflow as tf

    return {
        "processor": processor().name,
        "cores": cores(),
        "kernels": kernels(),
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
