"""Torch-Pruning on the twin of a trained MobileNetV2, for benchmarks/pruning.py: python pruning_peer.py DIRECTORY

The directory has `plan.json`, `data.npz` and `trained.npz`, the weights in the order and the layouts of Keras. For
the line `whole` it writes the twin to `whole.onnx`; for `prune NAME EACH MOST` it removes channels in rounds, making
EACH updates before each and MOST in all, and writes `NAME-pruned.pt` and `.onnx`; for `tune NAME` it trains on and
writes `NAME-tuned.onnx`. It answers with seconds. Knows nothing of maskc.
"""

from __future__ import annotations

import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch_pruning as tp
from torch import nn
from torch.nn import functional

# It runs in another environment, where there is no package `benchmarks`.
sys.path.append(str(Path(__file__).parent))
from answers import serve_methods

#: expansion, channels, blocks and stride of each stage (Sandler et al. 2018, arXiv 1801.04381, table 2)
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


def divisible(width: float) -> int:
    """The number of channels for a width: a multiple of 8 that is not less than nine tenths of it."""
    rounded = max(8, int(width + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * width else rounded


def convolution(source: int, target: int, kernel: int, plan: Any, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """A convolution and its norm; with a stride padded as TensorFlow does, on the right and below only."""
    padding = [nn.ZeroPad2d((0, 1, 0, 1))] if stride == 2 else []
    inside = 0 if stride == 2 else kernel // 2
    layer = nn.Conv2d(source, target, kernel, stride, inside, groups=groups, bias=False)
    return [*padding, layer, nn.BatchNorm2d(target, eps=1e-3, momentum=1 - plan["momentum"])]


class Block(nn.Module):
    """An inverted residual block."""

    def __init__(self, source: int, target: int, expansion: int, stride: int, plan: Any) -> None:
        super().__init__()
        hidden = source * expansion
        layers = [*convolution(source, hidden, 1, plan), nn.ReLU6()] if expansion > 1 else []
        layers += [*convolution(hidden, hidden, 3, plan, stride, hidden), nn.ReLU6()]
        self.layers = nn.Sequential(*layers, *convolution(hidden, target, 1, plan))
        self.residual = stride == 1 and source == target

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.layers(x)
        return x + out if self.residual else out


class MobileNetV2(nn.Module):
    """The network as Keras has it."""

    def __init__(self, plan: Any) -> None:
        super().__init__()
        alpha = plan["alpha"]
        width = divisible(32 * alpha)
        layers = [*convolution(3, width, 3, plan, stride=2), nn.ReLU6()]
        for expansion, channels, blocks, stride in STAGES:
            for block in range(blocks):
                target = divisible(int(channels * alpha))
                layers.append(Block(width, target, expansion, stride if block == 0 else 1, plan))
                width = target
        last = divisible(1280 * alpha) if alpha > 1 else 1280
        layers += [*convolution(width, last, 1, plan), nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(last, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.classifier(self.features(x))
        return out


def load(network: nn.Module, file: Path) -> None:
    """Take Keras's weights, layer by layer; each must fit, and none be left."""
    with np.load(file) as stored:
        arrays = iter([torch.from_numpy(stored[name]) for name in sorted(stored.files)])
    with torch.no_grad():
        for module in network.modules():
            taken: list[tuple[torch.Tensor, torch.Tensor]] = []
            if isinstance(module, nn.Conv2d):
                depthwise = module.groups > 1
                taken = [(module.weight, next(arrays).permute((2, 3, 0, 1) if depthwise else (3, 2, 0, 1)))]
            elif isinstance(module, nn.BatchNorm2d):
                parts = (module.weight, module.bias, module.running_mean, module.running_var)
                taken = [(part, next(arrays)) for part in parts]
            elif isinstance(module, nn.Linear):
                taken = [(module.weight, next(arrays).T), (module.bias, next(arrays))]
            for own, given in taken:
                if own.shape != given.shape:
                    raise ValueError(f"{module} has weights of shape {tuple(own.shape)}, not {tuple(given.shape)}")
                own.copy_(given)
    if next(arrays, None) is not None:
        raise ValueError("there are more weights than layers")


class Peer:
    """The examples of a directory, and what is made of its network."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.plan = json.loads((directory / "plan.json").read_text())
        with np.load(directory / "data.npz") as data:
            self.images, self.labels = torch.from_numpy(data["images"]), torch.from_numpy(data["labels"])
            self.orders = {phase: torch.from_numpy(data[phase]) for phase in ("prune", "tune")}
        self.example = torch.zeros(1, 3, self.plan["side"], self.plan["side"])
        self.adam(self.trained(), "tune")  # the first one imports for seconds, which are not Torch-Pruning's

    def trained(self) -> MobileNetV2:
        network = MobileNetV2(self.plan)
        load(network, self.directory / "trained.npz")
        network.eval()
        return network

    def loss(self, network: nn.Module, phase: str, step: int) -> torch.Tensor:
        order = self.orders[phase]
        rows = order[step % len(order)]
        pixels = (self.images[rows].float() / 127.5 - 1).unsqueeze(1).repeat(1, 3, 1, 1)
        return functional.cross_entropy(network(pixels), self.labels[rows])

    def whole(self) -> dict[str, Any]:
        self.export(self.trained(), "whole")
        return {}

    def prune(self, name: str, each: str, most: str) -> dict[str, Any]:
        """In rounds over all layers, each after the gradients of some batches, until the target is reached."""
        network = self.trained()
        start = time.perf_counter()
        pruner = tp.pruner.BasePruner(
            network,
            self.example,
            importance=tp.importance.GroupTaylorImportance(),
            global_pruning=True,
            pruning_ratio=1.0,
            iterative_steps=self.plan["rounds"],
            ignored_layers=[network.classifier],
        )
        whole = macs = self.macs(network)
        seconds = {"preparing": time.perf_counter() - start, "training": 0.0, "deciding": 0.0}
        rounds = step = 0
        before = self.channels(network)
        while macs > self.plan["target"] * whole:
            if rounds == self.plan["rounds"]:
                raise ValueError(f"after all {rounds} rounds {macs / whole:.3f} of the multiply-adds are left")
            start = time.perf_counter()
            # The channels are new parameters after each round, so that the optimizer is one too.
            adam = self.adam(network, "prune")
            network.train()
            for _ in range(min(int(each), int(most) - step)):
                adam.zero_grad()
                self.loss(network, "prune", step).backward()
                adam.step()
                step += 1
            network.eval()
            begun = time.perf_counter()
            seconds["training"] += begun - start
            network.zero_grad()
            for batch in range(self.plan["round_batches"]):
                self.loss(network, "tune", rounds * self.plan["round_batches"] + batch).backward()
            pruner.step()
            macs = self.macs(network)
            rounds += 1
            seconds["deciding"] += time.perf_counter() - begun
        network.zero_grad()
        torch.save(network, self.directory / f"{name}-pruned.pt")
        self.export(network, f"{name}-pruned")
        counts = {"updates": step, "rounds": rounds, "channels": before - self.channels(network)}
        return seconds | counts | {"channels before": before}

    def tune(self, name: str) -> dict[str, Any]:
        network = torch.load(self.directory / f"{name}-pruned.pt", weights_only=False)
        steps = len(self.orders["tune"])
        start = time.perf_counter()
        adam = self.adam(network, "tune")
        rate = torch.optim.lr_scheduler.LambdaLR(adam, lambda step: (1 + math.cos(math.pi * step / steps)) / 2)
        network.train()
        for step in range(steps):
            adam.zero_grad()
            self.loss(network, "tune", step).backward()
            adam.step()
            rate.step()
        network.eval()
        seconds = time.perf_counter() - start
        self.export(network, f"{name}-tuned")
        return {"seconds": seconds}

    def adam(self, network: nn.Module, phase: str) -> torch.optim.Optimizer:
        """Keras's Adam."""
        return torch.optim.Adam(network.parameters(), self.plan[f"{phase}_rate"], eps=1e-7)

    def macs(self, network: nn.Module) -> float:
        return float(tp.utils.count_ops_and_params(network, self.example)[0])

    def channels(self, network: nn.Module) -> int:
        """Of all convolutions but depthwise ones, whose channels go with those before them."""
        return sum(m.out_channels for m in network.modules() if isinstance(m, nn.Conv2d) and m.groups == 1)

    def export(self, network: nn.Module, name: str) -> None:
        torch.onnx.export(
            network,
            (self.example,),
            str(self.directory / f"{name}.onnx"),
            input_names=["x"],
            dynamic_axes={"x": {0: "batch"}},
            opset_version=17,
            dynamo=False,
        )


if __name__ == "__main__":
    serve_methods(lambda: Peer(Path(sys.argv[1])))
