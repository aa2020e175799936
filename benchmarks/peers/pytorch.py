"""PyTorch, eager, channels last: the same network, and whole batches augmented as tensors.

No convolution before a batch norm has a bias (688 of the 274,442 parameters, without effect), as
its users write it; Adam is the fused one.
"""

from __future__ import annotations

import contextlib

import torch
from torch import nn
from torch.nn import functional

from harness import Turns, noise, serve


class _Block(nn.Module):
    def __init__(self, channels, filters, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, filters, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(filters, eps=1e-3, momentum=0.01)
        self.conv2 = nn.Conv2d(filters, filters, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(filters, eps=1e-3, momentum=0.01)
        self.shortcut = nn.Conv2d(channels, filters, 1, stride) if stride != 1 else nn.Identity()

    def forward(self, x):
        y = functional.relu(self.norm1(self.conv1(x)), inplace=True)
        return functional.relu(self.norm2(self.conv2(y)) + self.shortcut(x), inplace=True)


def network() -> nn.Module:
    """ResNet-20 v1 with dropout after stacks 2 and 3; logits."""
    stem = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16, eps=1e-3, momentum=0.01)]
    parts, channels = [*stem, nn.ReLU(inplace=True)], 16
    for stack, filters in enumerate((16, 32, 64)):
        for block in range(3):
            parts.append(_Block(channels, filters, 2 if stack and not block else 1))
            channels = filters
        if stack:
            parts.append(nn.Dropout(0.1 * stack))
    model = nn.Sequential(*parts, nn.AvgPool2d(8), nn.Flatten(), nn.Linear(64, 10))
    return model.to(memory_format=torch.channels_last)


def _augment(x, y, beta):
    """Flip, crop and mixup of float ``[B, 3, 32, 32]`` and one-hot ``[B, 10]``."""
    count = len(x)
    x = torch.where((torch.rand(count) < 0.5)[:, None, None, None], x.flip(3), x)
    padded = functional.pad(x, (4, 4, 4, 4)).permute(0, 2, 3, 1)
    rows = torch.randint(0, 9, (count, 1, 1)) + torch.arange(32)[None, :, None]
    columns = torch.randint(0, 9, (count, 1, 1)) + torch.arange(32)[None, None, :]
    x = padded[torch.arange(count)[:, None, None], rows, columns].permute(0, 3, 1, 2)
    weight = beta.sample((count,))
    x = torch.lerp(x.roll(1, 0), x, weight[:, None, None, None])
    return x, torch.lerp(y.roll(1, 0), y, weight[:, None])


def _autocast(precision):
    if precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast("cpu", torch.bfloat16)


def train(precision: str, batch_size: int, images: int, turns: Turns) -> None:
    """Rounds of training steps."""
    x, y = (torch.from_numpy(array) for array in noise())
    x, labels = x.permute(0, 3, 1, 2), functional.one_hot(y.long(), 10).float()
    mean = x.float().mean(0, keepdim=True) / 255
    model, beta = network(), torch.distributions.Beta(0.2, 0.2)
    kernels = [weight for weight in model.parameters() if weight.ndim == 4]
    others = [weight for weight in model.parameters() if weight.ndim != 4]
    groups = [{"params": kernels, "weight_decay": 2e-4}, {"params": others}]
    optimizer = torch.optim.Adam(groups, 1e-3, fused=True)
    order, position, losses = torch.randperm(len(x)), 0, []
    while True:
        for _ in range(images // batch_size):
            if position + batch_size > len(x):
                order, position = torch.randperm(len(x)), 0
            indices = order[position : position + batch_size]
            position += batch_size
            batch, targets = _augment(x[indices].float() / 255 - mean, labels[indices], beta)
            with _autocast(precision):
                logits = model(batch.contiguous(memory_format=torch.channels_last))
            loss = functional.cross_entropy(logits.float(), targets)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        turns()


def infer(precision: str, batch_size: int, images: int, turns: Turns) -> None:
    """Rounds of inference, from float32 that is normalized and channels last before."""
    x = torch.from_numpy(noise(images)[0]).permute(0, 3, 1, 2).float() / 255
    x, model = x.contiguous(memory_format=torch.channels_last), network().eval()
    while True:
        with torch.inference_mode(), _autocast(precision):
            parts = [model(part).float().softmax(1) for part in x.split(batch_size)]
            torch.cat(parts).numpy()
        turns()


if __name__ == "__main__":
    serve(train=train, infer=infer)
