"""Refusal of SavedModels with side effects: files, Python, other machines."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from maskc.errors import InputError

#: says in the environment that SavedModels may do what they like
TRUST = "MASKC_TRUST"

# Operators that read, write or remove files, run Python, or talk to other machines.
_OUTSIDE = re.compile(
    r"ReadFile|WriteFile|MatchingFiles|DeleteOldDirs|.*PyFunc.*|(Create|Write)\w*Summary\w*|Debug\w+|Rpc\w+|"
    r"(Save|Snapshot|DistributedSave)\w*Dataset\w*|DatasetToTFRecord|ExperimentalDatasetToTFRecord"
)
# Operators that write checkpoints, which the part of a SavedModel has that saves it again.
_SAVING = re.compile(r"Save|SaveSlices|SaveV2|MergeV2Checkpoints")
_PRINTING = ("Print", "PrintV2")


def check_saved(directory: Path, name: str) -> None:
    """Raise `InputError` for a SavedModel with operators that do more than compute, unless it is trusted."""
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    if _is_trusted():
        return
    try:
        saved = SavedModel.FromString((directory / "saved_model.pb").read_bytes())
    except (OSError, DecodeError):  # which loading it says better
        return
    _refuse((node for graph in saved.meta_graphs for node in nodes_of(graph.graph_def)), name, saving=False)


def check_function(function: Any, name: str) -> None:
    """Raise `InputError` for a concrete function that does more than compute, unless it is trusted.

    Beside `check_saved` this looks for what writes checkpoints, which every SavedModel has, but none to be called.
    """
    if not _is_trusted():
        _refuse(nodes_of(function.graph.as_graph_def()), name, saving=True)


def _is_trusted() -> bool:
    return os.environ.get(TRUST, "") not in ("", "0")


def nodes_of(graph: Any) -> Iterator[Any]:
    """The nodes of a `GraphDef` and of the functions in it."""
    yield from graph.node
    for function in graph.library.function:
        yield from function.node_def


def _refuse(nodes: Iterable[Any], name: str, saving: bool) -> None:
    for node in nodes:
        operator = node.op
        prints = operator in _PRINTING and node.attr["output_stream"].s.startswith(b"file:")
        if prints or _OUTSIDE.fullmatch(operator) or (saving and _SAVING.fullmatch(operator)):
            raise InputError(
                f"{name} does more than compute: node '{node.name}' ({operator}) reaches files, Python or other "
                "machines, and TensorFlow would run it here. If you trust it, use --trust."
            )
