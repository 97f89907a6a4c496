"""Torch-Pruning on one network, for benchmarks/pruned_quality.py: python one_shot_peer.py NETWORK DIRECTORY.

The network is that of benchmarks/trained_networks.py in PyTorch, with the weights of `weights.npz`; `whole` writes it
to `twin.onnx`. `prune IMPORTANCE SCOPE SHARE` removes, at once, the least important channels, heads and hidden units
until so much of the multiply-adds is left, and answers with the loss on the data; `tune SECONDS` trains what was pruned
last. Both write `candidate.onnx`. The loss is the divergence from the outputs of the whole network, in batches of
`data.npz`. Knows nothing of maskc.
"""

from __future__ import annotations

import copy
import math
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch_pruning as tp
from torch import nn
from torch.nn import functional as F  # noqa: N812

# It runs in another environment, where there is no package `benchmarks`.
sys.path.append(str(Path(__file__).parent))
from answers import serve_methods

IMPORTANCES = {"magnitude": tp.importance.GroupMagnitudeImportance, "taylor": tp.importance.GroupTaylorImportance}
BATCH, RATE, STEPS = 64, 1e-3, 7  # steps of the search for the ratio


class Convolved(nn.Module):
    """A convolution and its normalisation; at a stride of 2, Keras pads after the image."""

    def __init__(self, before: int, after: int, side: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, after, side, stride, side // 2 if stride == 1 else 0, bias=False)
        self.norm = nn.BatchNorm2d(after, eps=1e-3, momentum=0.01)
        self.pad = side > 1 and stride > 1

    def forward(self, x: Any) -> Any:
        return self.norm(self.conv(F.pad(x, (0, 1, 0, 1)) if self.pad else x))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = Convolved(1, 32)
        before = 32
        for block, (width, stride) in enumerate(((32, 1), (64, 2), (128, 2))):
            setattr(self, f"block{block}_first", Convolved(before, width, 3, stride))
            setattr(self, f"block{block}_second", Convolved(width, width))
            if stride > 1:
                setattr(self, f"block{block}_short", Convolved(before, width, 1, stride))
            before = width
        self.head = nn.Linear(128, 10)

    def forward(self, x: Any) -> Any:
        x = F.relu(self.stem(x.permute(0, 3, 1, 2)))
        for block in range(3):
            short = getattr(self, f"block{block}_short", nn.Identity())(x)
            inner = F.relu(getattr(self, f"block{block}_first")(x))
            x = F.relu(short + getattr(self, f"block{block}_second")(inner))
        return self.head(x.mean((2, 3)))


class Attention(nn.Module):
    """Queries, keys and values of all heads in one layer, as Torch-Pruning's examples have them."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Any) -> Any:
        batch, count, _ = x.shape
        q, k, v = self.qkv(x).reshape(batch, count, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        shown = (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(-1) @ v
        return self.out(shown.transpose(1, 2).reshape(batch, count, -1))


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedded = nn.Linear(8, 64)
        self.places = nn.Parameter(torch.zeros(1, 8, 64))
        for block in range(2):
            setattr(self, f"block{block}_attention", Attention(64, 4))
            setattr(self, f"block{block}_first", nn.Linear(64, 128))
            setattr(self, f"block{block}_second", nn.Linear(128, 64))
            for norm in (1, 2):
                setattr(self, f"block{block}_norm{norm}", nn.LayerNorm(64, eps=1e-3))
        self.head = nn.Linear(64, 10)

    def forward(self, x: Any) -> Any:
        x = self.embedded(x.reshape(-1, 8, 8)) + self.places
        for block in range(2):
            x = getattr(self, f"block{block}_norm1")(x + getattr(self, f"block{block}_attention")(x))
            inner = F.gelu(getattr(self, f"block{block}_first")(x))
            x = getattr(self, f"block{block}_norm2")(x + getattr(self, f"block{block}_second")(inner))
        return self.head(x.mean(1))


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        for name, before, width in (
            *(("down0", 1, 24), ("down1", 24, 48), ("down2", 48, 96)),
            *(("up1", 96, 48), ("up0", 48, 24)),
        ):
            setattr(self, f"{name}_first", Convolved(before, width))
            setattr(self, f"{name}_second", Convolved(width, width))
        self.up1, self.up0 = nn.ConvTranspose2d(96, 48, 2, 2), nn.ConvTranspose2d(48, 24, 2, 2)
        self.head = nn.Conv2d(24, 1, 1)

    def block(self, x: Any, name: str) -> Any:
        return F.relu(getattr(self, f"{name}_second")(F.relu(getattr(self, f"{name}_first")(x))))

    def forward(self, x: Any) -> Any:
        top = self.block(x.permute(0, 3, 1, 2), "down0")
        middle = self.block(F.max_pool2d(top, 2), "down1")
        x = self.up1(self.block(F.max_pool2d(middle, 2), "down2"))
        x = self.up0(self.block(torch.cat([x, middle], 1), "up1"))
        return self.head(self.block(torch.cat([x, top], 1), "up0")).permute(0, 2, 3, 1)


class Predicted(nn.Module):
    """The network with probabilities for its outputs, as it is exported."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Any) -> Any:
        out = self.network(x)
        return out.sigmoid() if isinstance(self.network, UNet) else out.softmax(-1)


def loaded(network: nn.Module, weights: dict[str, Any]) -> nn.Module:
    """The network with the weights of Keras's."""
    for name, module in network.named_modules():
        found = [torch.tensor(weights[key]) for k in range(8) if (key := f"{name.replace('.', '_')}/{k}") in weights]
        if isinstance(module, Attention):
            kernels, biases = found[0:6:2], found[1:6:2]
            module.qkv.weight.data = torch.cat([kernel.flatten(1).T for kernel in kernels])
            module.qkv.bias.data = torch.cat([bias.flatten() for bias in biases])
            module.out.weight.data, module.out.bias.data = found[6].flatten(0, 1).T.contiguous(), found[7]
        elif isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            module.weight.data = found[0].permute(3, 2, 0, 1).contiguous()
        elif isinstance(module, nn.Linear) and found:
            module.weight.data = found[0].T.contiguous()
        elif isinstance(module, (nn.BatchNorm2d, nn.LayerNorm)):
            module.weight.data = found[0]
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean, module.running_var = found[2:4]
        if len(found) > 1 and not isinstance(module, Attention):
            module.bias.data = found[1]
    if isinstance(network, Transformer):
        network.places.data = torch.tensor(weights["places/0"])[None]
    return network.eval()


class Peer:
    """The whole network, its outputs on the data, and what was pruned last."""

    def __init__(self, name: str, directory: Path) -> None:
        torch.set_num_threads(1)
        torch.manual_seed(0)
        self.directory = directory
        networks = {"residual": Residual, "transformer": Transformer, "unet": UNet}
        self.whole = loaded(networks[name](), dict(np.load(directory / "weights.npz")))
        with np.load(directory / "data.npz") as data:
            self.x = torch.tensor(data[data.files[0]])
        with torch.no_grad():
            self.y = self.outputs(self.whole)
        self.example = self.x[:1]
        self.pruned: nn.Module = self.whole

    def outputs(self, network: nn.Module) -> Any:
        predicted = Predicted(network)
        return torch.cat([predicted(self.x[k : k + BATCH]) for k in range(0, len(self.x), BATCH)])

    def loss(self, network: nn.Module, rows: Any, predictions: bool = False) -> Any:
        """Kullback-Leibler divergence from the probabilities of the whole network, but for a constant.

        predictions: from what it takes for right, as from its probabilities the gradient is zero before anything goes.
        """
        out, y = network(self.x[rows]), self.y[rows]
        if isinstance(network, UNet):
            return F.binary_cross_entropy_with_logits(out, (y > 0.5).float() if predictions else y)
        return F.cross_entropy(out, y.argmax(-1) if predictions else y)

    def whole_network(self) -> dict[str, Any]:
        self.export(self.whole, "twin")
        return {}

    def prune(self, importance: str, scope: str, share: str) -> dict[str, Any]:
        start = time.perf_counter()
        macs = tp.utils.count_ops_and_params(self.whole, self.example)[0]
        low, high, found = 0.0, 1.0, None
        for _ in range(STEPS):
            ratio = (low + high) / 2
            network = self._without(importance, scope == "global", ratio)
            if network is None:  # a ratio at which a layer is empty
                high = ratio
            elif tp.utils.count_ops_and_params(network, self.example)[0] > float(share) * macs:
                low = ratio
            else:
                high, found = ratio, network
        if found is None:
            return {"failed": "no ratio leaves so few"}
        self.pruned, seconds = found, time.perf_counter() - start
        with torch.no_grad():
            loss = float(self.loss(self.pruned, slice(None)))
        self.export(self.pruned, "candidate")
        return {"seconds": seconds, "loss": loss}

    def _without(self, importance: str, everywhere: bool, ratio: float) -> nn.Module | None:
        network = copy.deepcopy(self.whole)
        attentions = [module for module in network.modules() if isinstance(module, Attention)]
        pruner = tp.pruner.BasePruner(
            network,
            self.example,
            importance=IMPORTANCES[importance](),
            global_pruning=everywhere,
            pruning_ratio=ratio,
            max_pruning_ratio=0.9,
            ignored_layers=[network.head],
            num_heads={attention.qkv: attention.heads for attention in attentions},
            prune_num_heads=True,
            head_pruning_ratio=ratio,
            unwrapped_parameters=[(network.places, 2)] if isinstance(network, Transformer) else None,
        )
        if importance == "taylor":
            for rows in torch.arange(len(self.x)).split(BATCH)[:8]:
                self.loss(network, rows, predictions=True).backward()
        try:
            pruner.step()
            for attention in attentions:
                attention.heads = pruner.num_heads[attention.qkv]
            network.zero_grad()
            network(self.example)
        except (RuntimeError, ZeroDivisionError):
            return None
        return network

    def tune(self, seconds: str) -> dict[str, Any]:
        network, most = copy.deepcopy(self.pruned).train(), float(seconds)
        adam = torch.optim.Adam(network.parameters(), RATE)
        steps, start = 0, time.process_time()
        while (passed := time.process_time() - start) < most:
            for group in adam.param_groups:
                group["lr"] = RATE * (1 + math.cos(math.pi * passed / most)) / 2
            adam.zero_grad()
            self.loss(network, torch.randint(len(self.x), (BATCH,))).backward()
            adam.step()
            steps += 1
        self.export(network.eval(), "candidate")
        return {"seconds": time.process_time() - start, "steps": steps}

    def export(self, network: nn.Module, name: str) -> None:
        torch.onnx.export(
            Predicted(network).eval(),
            (self.x[:2],),
            str(self.directory / f"{name}.onnx"),
            input_names=["x"],
            dynamic_axes={"x": {0: "batch"}},
            opset_version=20,
            dynamo=False,
        )


if __name__ == "__main__":
    serve_methods(lambda: Peer(sys.argv[1], Path(sys.argv[2])))
