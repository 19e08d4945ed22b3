"""fastai's xse_resnext50 and its optimizer Ranger in plain PyTorch, written from fastai's own definitions.

The network (fastai/vision/models/xresnet.py and fastai/layers.py): ResNet-D's stem of three 3x3 (32, 32, 64), blocks of
[3, 4, 6, 3] as ResNeXt (32 groups of 4 channels) with squeeze and excitation by 16, a pool before the 1x1 of every
shortcut that changes the resolution, and simple self-attention at the end of the first stage. Every BN starts at beta =
1e-3, the last of a branch at gamma = 0; kernels are Kaiming's, fan-in.

Ranger is RAdam (`torch.optim.RAdam`) inside Lookahead (Zhang et al. 2019, arXiv 1907.08610). PyTorch divides by
sqrt(v) + epsilon before it removes the bias and fastai after it; with epsilon = 1e-6 this is the only difference.
"""

import math

import torch
from torch import nn
from torch.nn.utils import parametrizations

STAGES = ((64, 3), (128, 4), (256, 6), (512, 3))  # width and blocks
EXPANSION, GROUPS, REDUCTION = 4, 32, 16


class Conv(nn.Sequential):
    """Convolution, BN and activation."""

    def __init__(self, inputs, outputs, kernel=3, stride=1, groups=1, activation=None, gamma=1.0):
        convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        norm = nn.BatchNorm2d(outputs)
        nn.init.constant_(norm.weight, gamma)
        nn.init.constant_(norm.bias, 1e-3)
        super().__init__(convolution, norm, *([activation()] if activation else []))


class SqueezeExcite(nn.Module):
    """Scale channels by two 1x1 convolutions of their means; the inner width is a multiple of 8."""

    def __init__(self, channels, activation):
        super().__init__()
        inner = math.ceil(channels // REDUCTION / 8) * 8
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, inner, 1), activation(), nn.Conv2d(inner, channels, 1),
            nn.Sigmoid(),
        )  # fmt: skip

    def forward(self, x):
        """Return x, scaled."""
        return x * self.gate(x)


class SimpleSelfAttention(nn.Module):
    """x + gamma (x x^T) (W x) over positions, W spectrally normalised and gamma 0 at first."""

    def __init__(self, channels):
        super().__init__()
        convolution = nn.Conv1d(channels, channels, 1, bias=False)
        nn.init.kaiming_normal_(convolution.weight)
        self.conv = parametrizations.spectral_norm(convolution)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        """Return x with attention; products of all positions need float32."""
        with torch.autocast(x.device.type, enabled=False):
            flat = x.float().flatten(2)
            attended = torch.bmm(torch.bmm(flat, flat.transpose(1, 2)), self.conv(flat))
            return (self.gamma * attended + flat).view_as(x).to(x.dtype)


class Block(nn.Module):
    """A bottleneck of ResNeXt with squeeze and excitation, and self-attention if wanted."""

    def __init__(self, inputs, width, stride, attention, activation, pool):
        super().__init__()
        outputs, inner = EXPANSION * width, width * 4 // 64 * GROUPS
        branch = [
            Conv(inputs, inner, 1, activation=activation),
            Conv(inner, inner, 3, stride, GROUPS, activation),
            Conv(inner, outputs, 1, gamma=0.0),
            SqueezeExcite(outputs, activation),
        ]
        self.branch = nn.Sequential(*branch, *([SimpleSelfAttention(outputs)] if attention else []))
        pooled = [pool(2)] if stride > 1 else []
        self.shortcut = nn.Sequential(*pooled, *([Conv(inputs, outputs, 1)] if inputs != outputs else []))
        self.activation = activation()

    def forward(self, x):
        """Return the activated sum of both paths."""
        return self.activation(self.branch(x) + self.shortcut(x))


def xse_resnext50(classes: int, activation=nn.Mish, pool=nn.MaxPool2d, attention: bool = True) -> nn.Sequential:
    """Build the network, from normalised images [n, 3, size, size] to logits [n, classes]."""
    sizes = (3, 32, 32, 64)
    layers = [Conv(sizes[i], sizes[i + 1], 3, 1 if i else 2, activation=activation) for i in range(3)]
    layers.append(nn.MaxPool2d(3, 2, 1))
    inputs = sizes[-1]
    for stage, (width, blocks) in enumerate(STAGES):
        for index in range(blocks):
            attends = attention and stage == 0 and index == blocks - 1
            layers.append(Block(inputs, width, 2 if stage and not index else 1, attends, activation, pool))
            inputs = EXPANSION * width
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes))
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return model


class Lookahead:
    """Every `every` steps, move slow weights by `alpha` towards the weights, and the weights to the slow ones."""

    def __init__(self, optimizer, every: int = 6, alpha: float = 0.5):
        self.optimizer, self.every, self.alpha, self.count = optimizer, every, alpha, 0
        self.weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        self.slow = [weight.detach().clone() for weight in self.weights]
        self.param_groups = optimizer.param_groups

    @torch.no_grad()
    def after_step(self) -> None:
        """Count a step of the optimizer, and synchronise if it is time."""
        self.count += 1
        if self.count % self.every == 0:
            torch._foreach_lerp_(self.slow, self.weights, self.alpha)
            torch._foreach_copy_(self.weights, self.slow)

    def state_dict(self) -> dict:
        """Return everything that a resumed training needs."""
        return {"inner": self.optimizer.state_dict(), "slow": self.slow, "count": self.count}

    def load_state_dict(self, state: dict) -> None:
        """Take the state of an earlier training."""
        self.optimizer.load_state_dict(state["inner"])
        self.count = state["count"]
        for slow, value in zip(self.slow, state["slow"], strict=True):
            slow.copy_(value)
