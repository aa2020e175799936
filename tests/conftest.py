"""What holds for every test, and fixtures of several files."""

import os
import shlex

import pytest
from hypothesis import settings

import main
from machine.processor import choose_kernels

choose_kernels()  # as main.py does: bits are compared across processes
# Nothing of the machine takes part: no GPU, no cluster, and no job that the tests are run in.
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
for name in [name for name in os.environ if name == "TF_CONFIG" or name.startswith("SLURM")]:
    del os.environ[name]
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")


@pytest.fixture(scope="session", autouse=True)
def no_cache_of_keras(tmp_path_factory):
    """No data set but a test's own, so that nothing real is trained by mistake."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERAS_HOME", str(tmp_path_factory.mktemp("keras")))
        yield


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
