"""Write a finished run's network as a file that other programs read."""

from __future__ import annotations

import os
import shutil
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import Configure
from machine import extras, files, processor
from machine.errors import DeterminismError, StorageError, UserError
from runs import record as records

IMAGES = 500  # compared
DIFFERENCE_MAX = 1e-4
SAVEDMODEL_FILES = {"saved_model.pb", "fingerprint.pb", "variables", "assets"}


def export(*, save_dir: Path, format: str, output: Path | None = None) -> None:
    """Write the float32 network: images 0..255 go in, probabilities come out.

    Batch norm is folded into the convolutions; division by 255, the mean image and softmax are
    inside. The file is read back by its own runtime and compared before it gets its name.

    Args:
        save_dir: folder of the run.
        format: a key of ``FORMATS``.
        output: the file, or folder of a SavedModel; None for one in the run's folder.

    Raises:
        DeterminismError: the file's probabilities are not those of ``Model.predict_prob``.
        UserError: see ``machine.errors`` for what else can go wrong.
    """
    kind, record = FORMATS[format], records.read_record(save_dir)
    output = save_dir / kind.name if output is None else output
    _require_target(output, kind)
    output = output.resolve()  # of a link, the target is replaced
    extras.require(*kind.modules)
    processor.prepare_tensorflow()
    import numpy as np

    from Model import Model
    from sources import shapes

    # The answers do not matter, only that both programs give the same ones.
    images = shapes.draw(np.arange(IMAGES) % 10, np.random.default_rng(0))

    model = Model.load(save_dir, test_time_flip=False, test_time_shift=False)
    if any(record["model_configs"][key] for key in Configure.TEST_TIME):
        warnings.warn(
            "the exported network looks at an image once, without its mirror image or any shift",
            stacklevel=1,
        )
    if record.get("seen_test_images"):
        warnings.warn("the network was trained on the test images too", stacklevel=1)
    expected, network = model.predict_prob(images), stock_network(model)
    with (
        files.storing(output),
        tempfile.TemporaryDirectory(dir=output.parent, prefix=".export-") as folder,
    ):
        written = Path(folder, kind.name)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the converters, about their own insides
            kind.write(network, written)
            found = kind.read(written, images)
        difference = float(np.abs(found - expected).max())
        if not difference <= DIFFERENCE_MAX:
            raise DeterminismError(
                f"{format}: expected probabilities within {DIFFERENCE_MAX:g} of this "
                f"program's, found a difference of {difference:.2g}; nothing was written"
            )
        if written.is_dir():
            replaced = Path(f"{folder}-replaced")  # not inside, where it would be deleted
            try:
                if output.exists():
                    os.rename(output, replaced)
                os.rename(written, output)
            except BaseException:
                if replaced.exists():
                    os.rename(replaced, output)
                raise
            if replaced.exists():
                shutil.rmtree(replaced)
        else:
            files.write_bytes(output, written.read_bytes())
    print(
        f"{record['network']} as {format}: {output}\nfloat32 images [N, 32, 32, 3], 0..255, to "
        f"probabilities [N, {len(record['class_names'])}]{kind.note}\nlargest difference of a "
        f"probability: {difference:.2g} ({IMAGES} drawn images)"
    )


def stock_network(model):
    """Build the inference of ``model`` from Keras's own layers.

    Args:
        model: ``Model``.

    Returns:
        ``keras.Model`` from float32 images ``[B, H, W, C]``, 0..255, to probabilities ``[B, K]``.
    """
    import keras

    from Network import folded_weights, resnet_v1

    shape, classes = model.network.input_shape[1:], model.network.output_shape[-1]
    folded = resnet_v1(shape, model.configs["depth"], classes, model.configs["width"], folded=True)

    def stock(layer):
        own = getattr(keras.layers, type(layer).__name__)
        return own.from_config(layer.get_config())

    logits = keras.models.clone_model(folded, clone_function=stock)
    logits.set_weights(folded_weights(model.network, folded))
    images = keras.Input(shape, dtype="float32", name="images")
    # Not a Normalization layer: tf2onnx makes inputs of its constants.
    x = keras.layers.Rescaling(1 / 255, offset=-model.mean)(images)
    probabilities = keras.layers.Softmax(name="probabilities")(logits(x))
    network = keras.Model(images, probabilities, name=folded.name)
    network(model.mean[None])  # Keras exports only what was called
    return network


def _require_target(output: Path, kind: _Format) -> None:
    suffix = Path(kind.name).suffix
    if output.suffix != suffix and suffix:
        raise UserError(f"output: expected a file name that ends in {suffix}, found {output.name}")
    if suffix and output.is_dir():
        raise UserError(f"output: expected a file to write, found the folder {output}")
    if not suffix and output.exists():
        names = set(os.listdir(output)) if output.is_dir() else {output.name}
        if names and ("saved_model.pb" not in names or names - SAVEDMODEL_FILES):
            raise UserError(
                f"output: expected a new folder or an earlier SavedModel, found {output} with "
                f"{', '.join(sorted(names)[:3])}; name another"
            )
    if not output.parent.is_dir():
        raise StorageError(f"cannot write {output}: there is no folder {output.parent}; make it")


class _Format(NamedTuple):
    name: str  # in the run's folder
    modules: tuple[str, ...]
    write: Callable
    read: Callable  # path and uint8 images to probabilities, by the format's own runtime
    note: str = ""


def _write_with_keras(format: str) -> Callable:
    return lambda network, path: network.export(str(path), format=format, verbose=False)


def _read_keras(path, images):
    import keras

    return keras.models.load_model(path).predict(images, verbose=0)


def _read_savedmodel(path, images):
    import tensorflow as tf

    loaded = tf.saved_model.load(str(path))  # its variables live as long as it
    return loaded.serve(images).numpy()


def _read_onnx(path, images):
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: images.astype("float32")})[0]


def _read_litert(path, images):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path))
    into, out = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    interpreter.resize_tensor_input(into["index"], images.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(into["index"], images.astype("float32"))
    interpreter.invoke()
    return interpreter.get_tensor(out["index"])


FORMATS = {
    "keras": _Format(
        "model.keras", (), lambda network, path: network.save(path), _read_keras, "; uint8 as well"
    ),
    "savedmodel": _Format("savedmodel", (), _write_with_keras("tf_saved_model"), _read_savedmodel),
    "onnx": _Format(
        "model.onnx", ("tf2onnx", "onnx", "onnxruntime"), _write_with_keras("onnx"), _read_onnx
    ),
    "litert": _Format(
        "model.tflite", ("ai_edge_litert",), _write_with_keras("litert"), _read_litert
    ),
}
