"""describe: the network in numbers and as a picture."""

import pytest

from machine.processor import prepare_tensorflow
from study.network import multiply_adds, network_png
from verbs.describe import describe

prepare_tensorflow()

from Network import resnet_v1  # noqa: E402


def test_multiply_adds():
    stacks = 32**2 * (27 + 9 + 9), 16**2 * (18 + 36 + 2), 8**2 * (72 + 144 + 8)
    assert multiply_adds(resnet_v1(depth=8, width=1)) == sum(stacks) + 4 * 10


@pytest.mark.parametrize(("depth", "block"), [(14, "block 2"), (32, "2 to 5 (× 4)")])
def test_the_picture_has_every_block(depth, block, figure_of):
    network = resnet_v1(depth=depth, width=1, dropout=(0.1, 0.0))
    texts = [text.get_text() for text in figure_of(network_png, network).axes[0].texts]
    assert texts.count("block 1") == texts.count(block) == 3
    assert texts.count("dropout 10 %") == texts.count("no dropout") == 1


def test_describe_prints_the_size_and_draws_where_it_is_told_to(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    describe(preset="resnet20", overrides={})
    out = capsys.readouterr().out
    assert not list(tmp_path.iterdir())
    describe(preset="resnet20", overrides={}, output=tmp_path / "network.png")
    assert "stack3_block3_conv2" in out
    assert "274,442 parameters" in out and "40,813,184 multiply-adds" in out
    assert (tmp_path / "network.png").read_bytes().startswith(b"\x89PNG")
