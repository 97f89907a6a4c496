"""Torch-Pruning on one network, for benchmarks/torch_pruning.py: python torch_peer.py NETWORK DIRECTORY SIDE.

Half of the channels of each group of coupled layers goes, drawn with a seed. For the line `masked` it writes the
whole network to `masked.onnx`, the filters, norms and biases of these channels zero, and to `filters.onnx`, the norms
as they were, so that they make constants of these channels. For `prune` it deletes the channels, and answers with the
seconds: of the dependency graph, and of all. For `result` it writes `pruned.onnx`. Knows nothing of maskc.
"""

from __future__ import annotations

import copy
import sys
import time
from pathlib import Path
from typing import Any

import timm
import torch
import torch_pruning as tp
import torchvision
from torch import nn

# It runs in another environment, where there is no package `benchmarks`.
sys.path.append(str(Path(__file__).parent))
from answers import serve_methods

NORMS = (nn.BatchNorm2d, nn.LayerNorm)
Choice = list[tuple[str, Any, list[int]]]  # layers by name, how their outputs are deleted, which


def built(name: str) -> nn.Module:
    """A network with random weights, its norms like those of a trained one."""
    torch.manual_seed(0)
    if name == "ViT-base":
        network = timm.create_model("vit_base_patch16_224", pretrained=False)
    else:
        network = getattr(torchvision.models, name.lower())(weights=None)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return network.eval()


def roots(name: str, network: nn.Module) -> tuple[list[Any], list[nn.Module]]:
    """Kinds of layers whose outputs go, and layers that stay: the classes, and of ViT all but the hidden units."""
    if name != "ViT-base":
        return [nn.Conv2d, nn.Linear], [module for module in network.modules() if isinstance(module, nn.Linear)]
    hidden = {block.mlp.fc1 for block in network.blocks}
    return [nn.Linear], [m for m in network.modules() if isinstance(m, (nn.Linear, nn.Conv2d)) and m not in hidden]


class Subject:
    """One network, what goes of it, and what was made of it last."""

    def __init__(self, name: str, directory: Path, side: int) -> None:
        self.directory = directory
        self.network = built(name)
        generator = torch.Generator().manual_seed(0)
        self.example = torch.randn(1, 3, side, side, generator=generator)
        self.choice: Choice = []
        self.zeros: list[tuple[str, bool, list[int]]] = []  # layers, whether they are norms, and their masked channels
        graph = self.graph(self.network)
        names = {module: label for label, module in self.network.named_modules()}
        kinds, ignored = roots(name, self.network)
        for group in graph.get_all_groups(ignored_layers=ignored, root_module_types=kinds):
            root, handler = group[0].dep.target.module, group[0].dep.handler
            channels = graph.get_out_channels(root)
            gone = torch.randperm(channels, generator=generator)[: channels // 2].sort().values.tolist()
            self.choice.append((names[root], handler, gone))
            for dep, indices in graph.get_pruning_group(root, handler, gone):
                norm = isinstance(dep.target.module, NORMS)
                if norm or dep.handler == handler:
                    self.zeros.append((names[dep.target.module], norm, list(indices)))
        self.pruned = self.network

    def graph(self, network: nn.Module) -> Any:
        return tp.DependencyGraph().build_dependency(network, self.example)

    def prune(self) -> dict[str, Any]:
        network = copy.deepcopy(self.network)
        modules = dict(network.named_modules())
        start = time.perf_counter()
        graph = self.graph(network)
        built_at = time.perf_counter()
        for label, handler, gone in self.choice:
            graph.get_pruning_group(modules[label], handler, gone).prune()
        self.pruned = network
        return {"graph_seconds": built_at - start, "seconds": time.perf_counter() - start}

    def masked(self) -> dict[str, Any]:
        for file, norms in (("masked.onnx", True), ("filters.onnx", False)):
            network = copy.deepcopy(self.network)
            modules = dict(network.named_modules())
            for label, norm, gone in self.zeros:
                if norms or not norm:
                    with torch.no_grad():
                        modules[label].weight[gone] = 0
                        if modules[label].bias is not None:
                            modules[label].bias[gone] = 0
            self.export(network, file)
        return {"groups": len(self.choice)}

    def result(self) -> dict[str, Any]:
        self.export(self.pruned, "pruned.onnx")
        return {}

    def export(self, network: nn.Module, file: str) -> None:
        torch.onnx.export(
            network,
            (self.example,),
            str(self.directory / file),
            input_names=["x"],
            opset_version=17,
            dynamo=False,
        )


if __name__ == "__main__":
    serve_methods(lambda: Subject(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])))
