"""machine/processor.py: bfloat16 only where it is known to be faster."""

import pathlib
import platform

import pytest

from machine import processor


@pytest.fixture
def machine(monkeypatch):
    def set_up(flags, onednn=None, gpus=(), vendor="AuthenticAMD"):
        import tensorflow as tf

        this = processor.Processor("a processor", vendor, frozenset(flags))
        monkeypatch.setattr(processor, "processor", lambda: this)
        monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: list(gpus))
        monkeypatch.setattr(
            tf.config.experimental, "get_device_details", lambda c: {"compute_capability": c}
        )
        monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS", raising=False)
        if onednn is not None:
            monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", onednn)

    return set_up


def test_processors_of_one_name_are_told_apart(monkeypatch):
    text = (
        "vendor_id\t: AuthenticAMD\ncpu family\t: 25\nmodel\t\t: 17\nmodel name\t: AMD EPYC\n"
        "flags\t\t: avx2 fma\n"
    )
    monkeypatch.setattr(pathlib.Path, "read_text", lambda path: text)
    assert processor.processor() == (
        *("AMD EPYC, cpu family 25, model 17", "AuthenticAMD", {"avx2", "fma"}),
    )


AMD, INTEL = ("AuthenticAMD", "avx512_bf16"), ("GenuineIntel", "amx_bf16")


@pytest.mark.parametrize(("vendor", "flag"), [AMD, INTEL])
def test_auto_takes_bfloat16_on_a_processor_that_is_faster_in_it(machine, vendor, flag):
    machine({flag, "avx2"}, vendor=vendor)
    assert processor.choose_precision("auto") == (
        "bfloat16",
        f"the processor has {flag}, and oneDNN is on",
    )


@pytest.mark.parametrize(
    ("flags", "vendor", "missing"),
    [
        ({"avx2", "avx512f"}, *AMD),
        ({"avx2", "avx512f", "avx512_bf16", "avx512_fp16"}, *INTEL),
        (set(), "", "avx512_bf16"),
    ],
)
def test_auto_takes_float32_on_a_processor_that_is_not(machine, flags, vendor, missing):
    machine(flags, vendor=vendor)
    precision, reason = processor.choose_precision("auto")
    assert precision == "float32"
    assert reason.endswith(f"it has no {missing}")


def test_auto_takes_float32_with_onednn_off(machine):
    machine({"avx512_bf16"}, onednn="0")
    assert processor.choose_precision("auto")[0] == "float32"
    assert "TF_ENABLE_ONEDNN_OPTS" in processor.choose_precision("auto")[1]


@pytest.mark.parametrize(
    ("gpus", "precision"),
    [([(8, 0)], "bfloat16"), ([(9, 0), (7, 5)], "float32"), ([(7, 0)], "float32")],
)
def test_auto_asks_every_gpu(machine, gpus, precision):
    machine({"avx512_bf16"}, gpus=gpus)
    assert processor.choose_precision("auto")[0] == precision


@pytest.mark.parametrize("asked", ["float32", "bfloat16"])
def test_a_precision_that_is_asked_for_is_taken(machine, asked):
    machine(set())
    assert processor.choose_precision(asked) == (asked, "as asked")


@pytest.mark.parametrize(
    ("machine", "before", "after"),
    [("x86_64", None, "oneDNN"), ("x86_64", "0", "Eigen"), ("arm64", None, "TensorFlow's default")],
)
def test_onednn_is_on_where_it_is_fast_unless_it_was_turned_off(
    monkeypatch, machine, before, after
):
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", before or "")
    if before is None:
        monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS")
    processor.choose_kernels()
    assert processor.kernels() == after


def test_the_keras_json_of_a_person_is_for_other_programs():
    import keras

    keras.config.set_image_data_format("channels_first")
    keras.config.set_floatx("float16")
    processor.prepare_tensorflow()
    assert keras.config.image_data_format() == "channels_last"
    assert keras.config.floatx() == "float32"
