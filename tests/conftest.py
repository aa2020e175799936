"""Tests compute on the kernels that main.py chooses: bits are compared across processes."""

import pytest

from machine.processor import choose_kernels

choose_kernels()


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
