"""main.py export: the network in other programs' formats, or one line why not."""

import errno
import importlib.util
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from finished import save_run
from tiny import images

import main
from verbs import export

X, _ = images(20)
EXTRAS = {"onnx": ("tf2onnx", "onnxruntime"), "litert": ("ai_edge_litert",)}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return folder, save_run(folder).predict_prob(X)


@pytest.fixture
def exported(run, tmp_path, monkeypatch, capsys):
    """Export the run in this process; gives the exit code, output and errors."""
    monkeypatch.setattr(export, "IMAGES", 20)

    def run_verb(format, output):
        code = main.main(
            ["export", "--save-dir", str(run[0]), "--format", format, "--output", str(output)]
        )
        return code, *capsys.readouterr()

    return run_verb


@pytest.mark.parametrize("format", export.FORMATS)
def test_a_format_says_what_predict_prob_says(format, exported, tmp_path):
    for module in EXTRAS.get(format, ()):
        pytest.importorskip(module)
    output = tmp_path / export.FORMATS[format].name
    # Of the folder, a second one takes the place of the first.
    for _ in range(2 if format == "savedmodel" else 1):
        code, out, err = exported(format, output)
        assert code == 0, err
        assert "largest difference" in out
        assert [path.name for path in tmp_path.iterdir()] == [output.name]


def test_a_keras_file_needs_nothing_of_this_package_and_takes_uint8(exported, run, tmp_path):
    import keras

    path = tmp_path / "a.keras"
    assert exported("keras", path)[0] == 0
    network = keras.models.load_model(path)
    layers = [*network.layers, *network.get_layer(network.name).layers]
    assert all(type(layer).__module__.startswith("keras.") for layer in layers)
    assert not any("normalization" in layer.name for layer in layers)
    np.testing.assert_allclose(network.predict(X, verbose=0), run[1], atol=1e-5)
    assert run[1].std() > 0.01  # the images differ, so the comparison says something


def test_another_answer_is_an_error_and_leaves_nothing(exported, tmp_path, monkeypatch):
    kind = export.FORMATS["keras"]

    def write(network, path):
        network.set_weights([weights[..., ::-1] for weights in network.get_weights()])
        kind.write(network, path)

    monkeypatch.setitem(export.FORMATS, "keras", kind._replace(write=write))
    code, _, err = exported("keras", tmp_path / "a.keras")
    assert (code, err.count("\n")) == (8, 1)
    assert list(tmp_path.iterdir()) == []


def test_a_link_keeps_pointing_and_its_folder_gets_the_model(run, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "IMAGES", 20)
    (tmp_path / "served").mkdir()
    shutil.copytree(run[0], tmp_path / "run")
    link = tmp_path / "run" / export.FORMATS["savedmodel"].name
    link.symlink_to("../served")
    assert main.main(["export", "--save-dir", str(link.parent), "--format", "savedmodel"]) == 0
    assert link.is_symlink() and (tmp_path / "served" / "saved_model.pb").exists()


def test_a_model_that_cannot_take_its_place_leaves_the_one_before(exported, tmp_path, monkeypatch):
    output, rename = tmp_path / "savedmodel", os.rename
    assert exported("savedmodel", output)[0] == 0
    before = sorted(path.name for path in output.iterdir())

    def refuse(source, target):
        if Path(source).name == output.name != Path(target).name or "replaced" in str(source):
            return rename(source, target)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(export.os, "rename", refuse)
    assert exported("savedmodel", output)[0] == 6
    assert sorted(path.name for path in output.iterdir()) == before


@pytest.mark.parametrize(
    ("format", "name", "code"),
    [
        ("keras", "a.onnx", 2),
        ("keras", "folder.keras", 2),
        ("savedmodel", "folder.keras", 2),
        ("savedmodel", "file", 2),
        ("keras", "missing/a.keras", 6),
    ],
)
def test_a_target_that_cannot_be_written_is_one_line(format, name, code, exported, tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder.keras").mkdir()
    (tmp_path / "folder.keras" / "mine").write_text("mine")
    found, _, err = exported(format, tmp_path / name)
    assert (found, err.count("\n")) == (code, 1), err
    for kept in ("file", "folder.keras/mine"):
        assert (tmp_path / kept).read_text() == "mine"
    assert {path.name for path in tmp_path.iterdir()} == {"file", "folder.keras"}


def test_a_missing_package_is_one_line(exported, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    code, _, err = exported("onnx", tmp_path / "a.onnx")
    assert (code, err.count("\n")) == (2, 1)
    assert "requirements-extra.txt" in err
