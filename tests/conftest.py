"""What holds for every test, and fixtures of several files."""

import os
import shlex
import tempfile

import pytest
from hypothesis import settings

import main
from machine.processor import choose_kernels

choose_kernels()  # as main.py does: bits are compared across processes
# Nothing of the machine takes part: no GPU, no cluster, and no job that the tests are run in.
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
for name in [name for name in os.environ if name == "TF_CONFIG" or name.startswith("SLURM")]:
    del os.environ[name]
# Nor any data set or setting of Keras but a test's own: nothing real is trained by mistake.
KERAS = tempfile.TemporaryDirectory(prefix="keras-")
os.environ["KERAS_HOME"] = KERAS.name
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")


class _Hostile:
    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return os.mkdir, (self.mark,)


@pytest.fixture
def hostile(tmp_path_factory):
    """An object whose pickle leaves a mark where it is read, which must not happen."""
    mark = tmp_path_factory.mktemp("hostile") / "mark"
    yield _Hostile(mark)
    assert not mark.exists()


@pytest.fixture
def trained_by(monkeypatch):
    """Return a function that gives what a command line of ``train`` would train."""

    def values_of(command):
        given = {}
        with monkeypatch.context() as patch:
            patch.setattr("verbs.train.train", lambda **values: given.update(values))
            assert main.main(shlex.split(command)) == 0
        return given

    return values_of


@pytest.fixture
def figure_of(monkeypatch):
    """Return a function that draws and gives back the figure in place of its PNG."""
    from matplotlib.figure import Figure

    def draw(function, *args):
        figures = []
        with monkeypatch.context() as patch:
            patch.setattr(Figure, "savefig", lambda figure, *_, **options: figures.append(figure))
            function(*args)
        return figures[0]

    return draw
