"""The network behind FID and KID: InceptionV3 as it was ported from TensorFlow, with the weights it was released with.

It is not torchvision's, though parameters are named as there: averages leave the border's padding out, and the last
block takes a maximum where the paper averages.
"""

# Axes: B pictures of a batch.

import re
from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_COUNTER = ".num_batches_tracked"  # of batch normalisation; only training reads it
_UNUSED = ("fc.", "AuxLogits.")
_CLASSES = 1008  # of the classifier that comes with these weights; torchvision's own have 1000

Pool = Literal["average", "max"]


class NormedConvolution(nn.Module):
    """A convolution without bias, batch normalisation with its trained statistics, and ReLU.

    Args:
        channels: that go in.
        step: channels that come out and the kernel's rows and columns, such as "192:1x7".
        stride: of the convolution.
        padded: whether the maps keep their size at stride 1.
    """

    def __init__(self, channels: int, step: str, *, stride: int = 1, padded: bool = True) -> None:
        super().__init__()
        out, rows, columns = map(int, re.split("[:x]", step))
        padding = (rows // 2, columns // 2) if padded else 0
        self.conv = nn.Conv2d(channels, out, (rows, columns), stride=stride, padding=padding, bias=False)
        self.bn = nn.BatchNorm2d(out, eps=0.001)

    def forward(self, maps: Tensor) -> Tensor:
        """Returns (B, channels that come out, rows, columns)."""
        return F.relu(self.bn(self.conv(maps)), inplace=True)


class MixedBlock(nn.Module):
    """Branches that look at the same maps, side by side, and one that looks at them pooled.

    Args:
        channels: that go in.
        branches: each one's name and its steps one after the other; steps joined by "+" look at the same and are put
            side by side. In the weights' names steps are numbered from 1, a lone one is not, joined ones are a and b.
        pool: of every 3 × 3 pixels.
        pooled: channels of the pooled branch; 0 halves the maps instead: the pooled ones stay as they are, and the
            last step of each branch halves them too.
    """

    def __init__(self, channels: int, branches: Mapping[str, str], *, pool: Pool, pooled: int = 0) -> None:
        super().__init__()
        self.pool, self.halves = pool, not pooled
        self.branches: list[list[list[str]]] = []  # names of the units: by branch, by place, side by side
        for name, text in branches.items():
            width, places = channels, text.split()
            self.branches.append([])
            for number, place in enumerate(places, 1):
                label = name if len(places) == 1 else f"{name}_{number}"
                steps = place.split("+")
                labels = [label] if len(steps) == 1 else [f"{label}a", f"{label}b"]
                halving = self.halves and number == len(places)
                units = [
                    NormedConvolution(width, step, stride=2 if halving else 1, padded=not halving) for step in steps
                ]
                for part, unit in zip(labels, units, strict=True):
                    self.add_module(part, unit)
                self.branches[-1].append(labels)
                width = sum(unit.conv.out_channels for unit in units)
        if pooled:
            self.branch_pool = NormedConvolution(channels, f"{pooled}:1x1")

    def forward(self, maps: Tensor) -> Tensor:
        """Returns the branches' maps one after the other, (B, sum of their channels, rows, columns)."""
        outs = []
        for places in self.branches:
            found = maps
            for labels in places:
                found = torch.cat([self.get_submodule(label)(found) for label in labels], dim=1)
            outs.append(found)
        stride, padding = (2, 0) if self.halves else (1, 1)
        if self.pool == "max":
            around = F.max_pool2d(maps, 3, stride, padding)
        else:
            around = F.avg_pool2d(maps, 3, stride, padding, count_include_pad=False)
        outs.append(around if self.halves else self.branch_pool(around))
        return torch.cat(outs, dim=1)


def _fine(channels: int, pooled: int) -> MixedBlock:
    branches = {"branch1x1": "64:1x1", "branch5x5": "48:1x1 64:5x5", "branch3x3dbl": "64:1x1 96:3x3 96:3x3"}
    return MixedBlock(channels, branches, pool="average", pooled=pooled)


def _middle(inner: int) -> MixedBlock:
    across, down = f"{inner}:1x7", f"{inner}:7x1"
    branches = {
        "branch1x1": "192:1x1",
        "branch7x7": f"{inner}:1x1 {across} 192:7x1",
        "branch7x7dbl": f"{inner}:1x1 {down} {across} {down} 192:1x7",
    }
    return MixedBlock(768, branches, pool="average", pooled=192)


def _coarse(channels: int, pool: Pool) -> MixedBlock:
    branches = {
        "branch1x1": "320:1x1",
        "branch3x3": "384:1x1 384:1x3+384:3x1",
        "branch3x3dbl": "448:1x1 384:3x3 384:1x3+384:3x1",
    }
    return MixedBlock(channels, branches, pool=pool, pooled=192)


class InceptionNetwork(nn.Module):
    """InceptionV3 of TensorFlow's 2015-12-05 release up to its last pooling; parameters are named as torchvision's.

    Source: Szegedy et al., CVPR 2016; the differences from torchvision as in pytorch-fid and torch-fidelity.
    """

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = NormedConvolution(3, "32:3x3", stride=2, padded=False)
        self.Conv2d_2a_3x3 = NormedConvolution(32, "32:3x3", padded=False)
        self.Conv2d_2b_3x3 = NormedConvolution(32, "64:3x3")
        self.Conv2d_3b_1x1 = NormedConvolution(64, "80:1x1")
        self.Conv2d_4a_3x3 = NormedConvolution(80, "192:3x3", padded=False)
        self.Mixed_5b = _fine(192, 32)
        self.Mixed_5c = _fine(256, 64)
        self.Mixed_5d = _fine(288, 64)
        halving = {"branch3x3": "384:3x3", "branch3x3dbl": "64:1x1 96:3x3 96:3x3"}
        self.Mixed_6a = MixedBlock(288, halving, pool="max")
        self.Mixed_6b = _middle(128)
        self.Mixed_6c = _middle(160)
        self.Mixed_6d = _middle(160)
        self.Mixed_6e = _middle(192)
        halving = {"branch3x3": "192:1x1 320:3x3", "branch7x7x3": "192:1x1 192:1x7 192:7x1 192:3x3"}
        self.Mixed_7a = MixedBlock(768, halving, pool="max")
        self.Mixed_7b = _coarse(1280, "average")
        self.Mixed_7c = _coarse(2048, "max")

    def forward(self, pixels: Tensor) -> Tensor:
        """Returns features (B, 2048) of pixels (B, 3, 299, 299) in 0..255."""
        maps = (pixels - 128) / 128  # what TensorFlow's graph does: not quite −1..1
        maps = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(maps)))  # (B, 64, 147, 147)
        maps = F.max_pool2d(maps, 3, 2)
        maps = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(maps))  # (B, 192, 71, 71)
        maps = F.max_pool2d(maps, 3, 2)
        maps = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(maps)))  # (B, 288, 35, 35)
        maps = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(maps)))))  # (B, 768, 17, 17)
        maps = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(maps)))  # (B, 2048, 8, 8)
        return maps.mean(dim=(2, 3))


def network_of(tensors: Mapping[str, Tensor], source: str) -> InceptionNetwork:
    """Returns the network with given weights, in float32.

    Args:
        tensors: by torchvision's names; those of the classifier's layers are ignored.
        source: where they are from, for messages.

    Raises:
        ValueError: a weight is missing, is of another shape, or belongs to no part of the network; or the classifier
            shows that the weights are those torchvision trained for itself, over which no FID is defined.
    """
    with torch.device("meta"):
        network = InceptionNetwork()
    shapes = {name: value.shape for name, value in network.state_dict().items()}
    given = {name: value for name, value in tensors.items() if not name.startswith(_UNUSED)}
    needed = [name for name in shapes if not name.endswith(_COUNTER)]
    help_ = "give the weights that FID is defined by"
    if "fc.weight" in tensors and len(tensors["fc.weight"]) != _CLASSES:
        raise ValueError(f"{source} tells {len(tensors['fc.weight'])} classes apart, not {_CLASSES}; {help_}")
    if missing := [name for name in needed if name not in given]:
        raise ValueError(f"{source} lacks {missing[0]} and {len(missing) - 1} more of Inception's weights; {help_}")
    if foreign := [name for name in given if name not in shapes]:
        raise ValueError(f"{source} holds {foreign[0]}, which Inception has no place for; {help_}")
    for name in needed:
        if given[name].shape != shapes[name] or not given[name].is_floating_point():
            found = f"{given[name].dtype} {tuple(given[name].shape)}"
            raise ValueError(f"{source}: {name} must be floating point {tuple(shapes[name])}, got {found}; {help_}")
    state = {name: given[name].float() if name in needed else torch.tensor(0) for name in shapes}
    network.load_state_dict(state, assign=True)
    return network
