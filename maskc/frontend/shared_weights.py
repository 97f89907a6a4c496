"""Weights that several initializers share: the same bytes of one external file, which are stored once and stay so."""

from __future__ import annotations

from onnx import ModelProto, helper

from maskc.frontend.graphs import is_external, without_initializers

# bytes: smaller ones may be shapes, which are read as initializers, and would not be worth a node.
_LEAST = 1024


def joined(model: ModelProto) -> ModelProto:
    """The model with one initializer for each place in a file; the others of that place are Identity nodes of it.

    So they keep their names, and what is read, cut and written is one tensor. Initializers that a caller may override
    stay. The model itself where nothing is shared.
    """
    given = {value.name for value in model.graph.input}
    first: dict[tuple[object, ...], str] = {}
    same: dict[str, str] = {}
    for tensor in model.graph.initializer:
        said = {entry.key: entry.value for entry in tensor.external_data}
        if not is_external(tensor) or int(said.get("length", 0)) < _LEAST or tensor.name in given:
            continue
        place = (said["location"], int(said.get("offset", 0)), tensor.data_type, tuple(tensor.dims))
        name = first.setdefault(place, tensor.name)
        if name != tensor.name:
            same[tensor.name] = name
    if not same:
        return model
    made = without_initializers(model)
    del made.graph.node[:]
    made.graph.node.extend(helper.make_node("Identity", [name], [other]) for other, name in same.items())
    made.graph.node.extend(model.graph.node)
    for tensor in model.graph.initializer:
        if tensor.name not in same:
            made.graph.initializer.add().CopyFrom(tensor)  # one by one: messages end at 2 GB
    return made
