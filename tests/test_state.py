"""runs/state.py: a state comes back to the bit, or the one before it does."""

import hashlib
import io
import os

import numpy as np
import pytest
from tiny import file_limit

from machine.errors import RunError, StorageError
from runs import state

ARRAYS = {
    "network/0": np.arange(6, dtype=np.float32).reshape(2, 3),
    "optimizer/0": np.array(7, np.int64),
    "empty": np.empty((0, 3), np.uint8),
}


@pytest.fixture
def folder(tmp_path):
    for step in (1, 2):
        state.save(tmp_path, ARRAYS, {"step": step})
    return tmp_path


def step_of(folder):
    return state.load(folder)[1]["step"]


def test_a_state_comes_back_to_the_bit(folder):
    arrays, record = state.load(folder)
    assert record == {"step": 2}
    assert list(arrays) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(arrays[name], array)


def test_numpy_opens_a_state(folder):
    with np.load(folder / state.STATE_FILE, allow_pickle=False) as file:
        np.testing.assert_array_equal(file["network/0"], ARRAYS["network/0"])


def test_no_state_is_none(tmp_path):
    assert state.load(tmp_path) is None


def test_any_changed_or_missing_byte_is_found_and_the_state_before_is_used(folder):
    path = folder / state.STATE_FILE
    data = path.read_bytes()
    damaged = [data[:size] for size in (0, 1, 40, len(data) // 2, len(data) - 1)]
    for place in range(0, len(data), 7):
        flipped = bytearray(data)
        flipped[place] ^= 1 << place % 8
        damaged.append(bytes(flipped))
    for content in damaged:
        path.write_bytes(content)
        with pytest.warns(UserWarning, match=r"state.npz: damaged.*from state.previous.npz"):
            assert step_of(folder) == 1


def test_a_damaged_state_never_takes_the_place_of_the_good_one(folder):
    (folder / state.STATE_FILE).write_bytes(b"damaged")
    with pytest.warns(UserWarning, match="damaged"):
        state.load(folder)
    state.save(folder, ARRAYS, {"step": 3})
    assert (folder / state.DAMAGED_STATE_FILE).read_bytes() == b"damaged"
    (folder / state.STATE_FILE).unlink()
    assert step_of(folder) == 1


def test_a_kill_between_the_renames_leaves_the_last_state(folder, monkeypatch):
    def kill(source, target):
        if os.path.basename(target) == state.STATE_FILE:
            raise KeyboardInterrupt
        return replace(source, target)

    replace = os.replace
    monkeypatch.setattr(os, "replace", kill)
    with pytest.raises(KeyboardInterrupt):
        state.save(folder, ARRAYS, {"step": 3})
    assert step_of(folder) == 2


def test_two_damaged_states_are_an_error(folder):
    for name in (state.STATE_FILE, state.PREVIOUS_STATE_FILE):
        (folder / name).write_bytes(b"")
    with pytest.raises(RunError, match=r"state.previous.npz: damaged: .*--fresh"):
        state.load(folder)


def test_a_full_disk_leaves_the_last_states(folder):
    before = (folder / state.STATE_FILE).read_bytes()
    with file_limit(200), pytest.raises(StorageError, match=r"state.npz: File too large"):
        state.save(folder, {"big": np.zeros(1000, np.float32)}, {})
    assert (folder / state.STATE_FILE).read_bytes() == before
    assert len(os.listdir(folder)) == 2


def sealed(body):
    """A file with the checksum of a state and other content."""
    return body + hashlib.sha256(body).digest()


def archive(**arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not an archive",
        archive(array=np.zeros(3)),  # no record
        archive(record=np.zeros(3, np.uint8)),  # a record that is no JSON
    ],
)
def test_what_is_no_state_is_refused(tmp_path, body):
    (tmp_path / state.STATE_FILE).write_bytes(sealed(body))
    with pytest.raises(RunError, match=r"state.npz: damaged: not a state"):
        state.load(tmp_path)


def test_a_state_is_not_unpickled(tmp_path, hostile):
    body = archive(record=np.array([hostile], object))
    (tmp_path / state.STATE_FILE).write_bytes(sealed(body))
    with pytest.raises(RunError, match=r"state.npz: damaged: not a state"):
        state.load(tmp_path)
