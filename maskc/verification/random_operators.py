"""Sessions of models with random operators, in which two models draw the same numbers."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from numpy.typing import NDArray
from onnx import ModelProto, TensorProto

from maskc.frontend.graph_queries import all_nodes, array_of, constants, copied, is_external
from maskc.runtime.session import Provider, Session, load
from maskc.verification.recheck import PRODUCTS, seed_of, sign_alike


def load_repeatable(
    model: ModelProto, provider: Provider = "cpu", *, optimized: bool = True, exact: bool = False
) -> Session:
    """As `load`, but random operators draw the same numbers in each run, as those of other models do.

    Those without a seed get one, and the model is loaded anew for each run, as a session goes on with what it drew.
    """
    if exact and provider == "cpu" and any(node.op_type in PRODUCTS for node in all_nodes(model)):
        model = copied(model)
        sign_alike(model)
    if not draws(model):
        return load(model, provider, optimized=optimized, exact=exact)
    seeded = copied(model)
    for node in all_nodes(seeded):
        node.attribute.extend(seed for seed in seed_of(node) if seed not in node.attribute)
    return _Repeated(partial(load, seeded, provider, optimized=optimized, exact=exact))


def draws(model: ModelProto) -> bool:
    """Whether the model has random operators; a Dropout that is told by a constant not to train is none."""
    random = [node for node in all_nodes(model) if seed_of(node)]
    if not random:
        return False
    flags = {name: t for name, t in constants(model).items() if t.data_type == TensorProto.BOOL and not is_external(t)}
    off = {name for name, tensor in flags.items() if not array_of(tensor).any()}
    return any(node.op_type != "Dropout" or node.input[2] not in off for node in random)


class _Repeated:
    """A session that is made anew for each run."""

    def __init__(self, loaded: partial[Session]) -> None:
        self._loaded, first = loaded, loaded()
        self.outputs, self.finest, self.note = first.outputs, first.finest, first.note

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        return self._loaded().run(inputs)
