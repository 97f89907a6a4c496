"""Sony's Model Compression Toolkit on a network of benchmarks/mct.py, with Keras 2: python mct_peer.py APPROXIMATIONS

For each line it does what it says, and answers with what it measured. `load DIRECTORY NETWORK` takes the weights and
the examples of a directory. `prune NAME GROUP SHARE` prunes to a share of the multiply-adds (0: as few as the toolkit
leaves), with channels in groups of so many; the toolkit is asked for the memory of weights, so this looks for the
memory that gives the share. `tune NAME` trains what is left, and `export NAME` writes it as a SavedModel. Knows nothing
of maskc.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import model_compression_toolkit as mct
import numpy as np
import tensorflow as tf
from model_compression_toolkit.core.common.hessian.hessian_info_service import HessianInfoService

# It runs in another environment, where there is no package `benchmarks`.
sys.path.append(str(Path(__file__).parent))
import mct_networks as networks
from answers import serve_methods

BYTES = 4  # of a weight
CALLS = 6  # of the toolkit, at most, to find the memory for a share
CLOSE = 0.03  # to the share, relatively


class Scores:
    """The toolkit's scores, computed once for each network, not again for each memory that it is asked for."""

    def __init__(self) -> None:
        self.found: dict[str, Any] = {}
        self.seconds = 0.0
        compute = HessianInfoService.fetch_hessian

        def fetch(service: Any, request: Any, *arguments: Any, **named: Any) -> Any:
            (node,) = request.target_nodes
            if node.name not in self.found:
                start = time.perf_counter()
                self.found[node.name] = compute(service, request, *arguments, **named)
                self.seconds += time.perf_counter() - start
            return self.found[node.name]

        HessianInfoService.fetch_hessian = fetch

    def forget(self) -> None:
        self.found, self.seconds = {}, 0.0


class Peer:
    """A trained network, and what is made of it, by name."""

    def __init__(self, approximations: int) -> None:
        self.config = mct.pruning.PruningConfig(num_score_approximations=approximations)
        self.scores = Scores()
        self.made: dict[str, Any] = {}

    def load(self, directory: str, *name: str) -> dict[str, Any]:
        """The network with its weights; `error` is how far its outputs are from those where it was trained."""
        self.directory = Path(directory)
        self.settings = json.loads((self.directory / "settings.json").read_text())
        with np.load(self.directory / "data.npz") as data:
            self.data = dict(data)
        self.model = networks.network(" ".join(name))
        with np.load(self.directory / "weights.npz") as stored:
            for layer in self.model.layers:
                layer.set_weights([stored[f"{layer.name}:{k}"] for k in range(len(layer.get_weights()))])
        self.scores.forget()
        self.made = {"whole": self.model}
        self.macs = networks.macs(self.model)
        return {"error": networks.difference(networks.logits(self.model, self.data["held"]), self.data["expected"])}

    def prune(self, name: str, group: str, share: str) -> dict[str, Any]:
        """To about a share of the multiply-adds, by as much memory as that takes."""
        start, asked, scored = time.perf_counter(), float(share), self.scores.seconds
        low, left = self.least(int(group))
        high, top, calls = float(BYTES * self.model.count_params()), 1.0, 0
        best = left
        while left["share"] < asked and calls < CALLS and abs(best["share"] / asked - 1) > CLOSE:
            # Where a straight line between both ends reaches it, but not so near to one that nothing is learned.
            part = min(max((asked - left["share"]) / (top - left["share"]), 0.1), 0.9)
            memory = low + part * (high - low)
            found = self.pruned(memory, int(group))
            calls += 1
            if abs(found["share"] - asked) < abs(best["share"] - asked):
                best = found
            if found["share"] > asked:
                high, top = memory, found["share"]
            else:
                low, left = memory, found
        self.made[name] = best.pop("model")
        masks = best.pop("masks")
        seconds = time.perf_counter() - start
        return best | {
            "widths": networks.sizes(self.made[name]),
            "error": self.error(self.made[name], masks),
            "accuracy": networks.accuracy(self.made[name], self.data["held"], self.data["held_labels"]),
            "scoring seconds": self.scores.seconds - scored,
            "seconds": seconds,
        }

    def least(self, group: int) -> tuple[float, dict[str, Any]]:
        """The least memory, which the toolkit tells whoever asks for less, and what it leaves then."""
        try:
            self.pruned(1.0, group)
        except Exception as error:
            found = re.search(r"current memory ([\d.]+?),", str(error))
            if not found:
                raise
            memory = float(found[1])
            return memory, self.pruned(memory, group)
        raise ValueError("the toolkit leaves less than a byte of weights")

    def pruned(self, memory: float, group: int) -> dict[str, Any]:
        """What the toolkit leaves of the network with so many bytes of weights."""
        target = mct.core.ResourceUtilization(weights_memory=memory)
        model, info = mct.pruning.keras_pruning_experimental(
            self.model, target, self.examples, self.config, platform(group)
        )
        masks = {node.name: np.asarray(mask, bool) for node, mask in info.pruning_masks.items()}
        return {"model": model, "masks": masks, "share": networks.macs(model) / self.macs, "sections": len(masks)}

    def examples(self) -> Iterator[list[Any]]:
        """Images without labels, one at a time."""
        for image in self.data["images"][:64]:
            yield [image[np.newaxis]]

    def error(self, model: Any, masks: dict[str, Any]) -> float:
        """How far it is from the whole network in which nothing reads the channels that the toolkit removed."""
        zeroed = tf.keras.models.clone_model(self.model)
        zeroed.set_weights(self.model.get_weights())
        for name, mask in masks.items():
            layer = zeroed.get_layer(name)
            while True:
                (node,) = layer.outbound_nodes
                layer = node.outbound_layer
                if hasattr(layer, "kernel"):
                    break
            kernel, *bias = layer.get_weights()
            layer.set_weights([kernel * mask[:, np.newaxis], *bias])
        images = self.data["held"]
        return float(networks.difference(networks.logits(model, images), networks.logits(zeroed, images)))

    def tune(self, name: str) -> dict[str, Any]:
        model, data = self.made[name], self.data
        networks.train(model, data["images"], data["labels"], data["tune"], self.settings["tune rate"])
        return {"accuracy": networks.accuracy(model, data["held"], data["held_labels"])}

    def export(self, name: str) -> dict[str, Any]:
        model, module = self.made[name], tf.Module()
        module.model = model
        module.run = tf.function(
            lambda image: {"logits": model(image, training=False)},
            input_signature=[tf.TensorSpec([None, *model.input.shape[1:]], tf.float32, name="image")],
        )
        tf.saved_model.save(module, str(self.directory / name), {"serving_default": module.run})
        return {}


def platform(group: int) -> Any:
    """The toolkit's default target platform, IMX500, with channels in groups of so many; its own is 32."""
    default = mct.get_target_platform_capabilities()
    text = re.sub(r'"simd_size":\s*\d+', f'"simd_size": {group}', default.model_dump_json())
    return type(default).model_validate_json(text)


if __name__ == "__main__":
    serve_methods(lambda: Peer(int(sys.argv[1])))
