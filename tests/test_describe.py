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


@pytest.mark.parametrize("depth", [8, 32])
def test_a_picture_of_any_depth(depth):
    picture = network_png(resnet_v1(depth=depth, width=1, dropout=(0.1, 0.0)))
    assert picture.startswith(b"\x89PNG")


def test_describe_prints_the_size(tmp_path, capsys):
    describe(preset="resnet20", overrides={}, output=tmp_path / "network.png")
    out = capsys.readouterr().out
    assert "stack3_block3_conv2" in out
    assert "274,442 parameters" in out and "40,813,184 multiply-adds" in out
    assert (tmp_path / "network.png").read_bytes().startswith(b"\x89PNG")
