"""runs/tensorboard.py: each epoch once."""

import pytest
import saved
from PIL import Image
from tiny import encoded

pytest.importorskip("tensorboard", reason="requirements-extra.txt is not installed")

from runs import tensorboard


def row(epoch):
    return {
        "epoch": epoch,
        "learning_rate": 0.1,
        "train_loss": 1 / epoch,
        "train_accuracy": None,
        "valid_loss": 2 / epoch,
        "valid_accuracy": 0.5,
        "seconds": 1.0,
        "images_per_second": 100.0,
    }


HISTORY = [row(epoch) for epoch in range(1, 5)]


@pytest.fixture
def folder(tmp_path):
    picture = encoded(Image.new("RGB", (8, 6), "red"))
    for name in tensorboard.FIRST_PICTURES:
        (tmp_path / name).write_bytes(picture)
    return tmp_path


def read(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / tensorboard.FOLDER), size_guidance={"tensors": 0})
    events.Reload()
    return {tag: [t.step for t in events.Tensors(tag)] for tag in events.Tags()["tensors"]}


def test_each_epoch_is_there_once_after_a_resume(folder):
    board = tensorboard.TensorBoard(folder, saved.RECORD)
    board.write(HISTORY[:1])
    board.write(HISTORY[:3])  # then the process is killed, and its state was of epoch 2
    tensorboard.TensorBoard(folder, saved.RECORD).write(HISTORY[:2])
    board = tensorboard.TensorBoard(folder, saved.RECORD)
    board.write(HISTORY[:3])
    board.write(HISTORY)
    steps = read(folder)
    assert steps.pop("configuration") == [0]
    assert {steps.pop(name.removesuffix(".png"))[0] for name in tensorboard.FIRST_PICTURES} == {0}
    assert set(steps) == set(row(1)) - {"epoch", "train_accuracy"}
    assert all(found == [1, 2, 3, 4] for found in steps.values())
