"""ONNX files: parsing, checking, inlining of local functions."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import ModelProto, numpy_helper
from onnx.version_converter import convert_version

from maskc.errors import InputError
from maskc.frontend import external_data, graph_checks, runtime_shapes, stand_ins
from maskc.frontend.graph_queries import all_nodes, copied, has_external, weight_bytes
from passes.errors import in_brief
from passes.graph.opset_versions import opset_of
from passes.graph.tensors import STANDARD_DOMAINS
from passes.model import local_functions
from passes.model.contrib_operators.decompose import DOMAIN, missing_in_standard
from passes.model.outline import outline

# Protobuf cannot read or write a message larger than this, so weights beyond it are in external files.
PROTOBUF_LIMIT = 2**31 - 1

# Bytes of weights that the checker is shown sooner than the model is copied without them.
_SOON_SHOWN = 2**20

# What models of other kinds are, by the ends of their names.
_PYTORCH = "is a PyTorch file: export the network with torch.onnx.export, and give the .onnx file"
_OTHERS = {
    ".pt": _PYTORCH,
    ".pth": _PYTORCH,
    ".tflite": "is a TensorFlow Lite file, which cannot be read: give the Keras model or SavedModel it was made of",
    ".xml": "is a file of OpenVINO, which cannot be read: give the model that it was converted from",
}

# What is put in place of masks is written in operators that were all there then.
OLDEST_OPSET = 9
# Before it, ONNX Runtime promises nothing.
_OLDEST_CONVERTED = 7


def read(path: Path, *, stay: bool = False) -> tuple[ModelProto, tuple[Path, ...], tuple[str, ...]]:
    """Read and check an ONNX file, with its external data, and inline its local functions.

    With `stay`, large external data stay where they are: large initializers of the graph then name absolute paths.
    Returns the model, the files it was read from, and notes for the user.
    Raises `InputError` for a file that is not a valid ONNX model, or external data that is missing or outside
    the model's directory; nothing outside that directory is opened.
    """
    model = _parse(path)
    files = external_data.external_files(model, path)
    external_data.load(model, path, small=not model.graph.sparse_initializer)
    prepared, notes = _prepared(model, path, stay)
    return prepared, (path, *files), notes


def prepare(model: ModelProto) -> tuple[ModelProto, tuple[str, ...]]:
    """Check a model in memory and inline its local functions; the argument is left untouched.

    Raises `InputError` when the checker rejects it or its weights are in files.
    """
    if has_external(model):
        raise InputError("The model's weights are in external files that were not loaded; pass the path instead.")
    return _prepared(model, None)


def _prepared(model: ModelProto, path: Path | None, stay: bool = False) -> tuple[ModelProto, tuple[str, ...]]:
    what = "The model" if path is None else str(path)
    model, notes = _checked(model, path, what)
    try:
        inlined = local_functions.inline(model)
    except Exception as error:
        raise InputError(f"{what}: its local functions cannot be inlined: {in_brief(error)}.") from error
    if path is not None:
        inlined = external_data.joined(inlined)
        if stay and sys.byteorder == "little":
            external_data.leave(inlined, path)
        external_data.load(inlined, path)
    if model.functions:  # which may be called in ways that their bodies do not allow
        try:
            check(inlined)
        except Exception as error:
            why = in_brief(_with_names(inlined, error))
            raise InputError(f"{what} is not valid once its local functions are inlined: {why}.") from error
    return runtime_shapes.noted(inlined), notes


def check(model: ModelProto) -> None:
    """Run the ONNX checker with full shape inference, on a model without its weights where they are many or in files.

    Raises the checker's own exceptions.
    """
    # where weights have to be inputs as well, they are looked at
    many = model.ir_version > 3 and weight_bytes(model) >= _SOON_SHOWN
    light = outline(model) if many or has_external(model) else model
    onnx.checker.check_model(_in_own_domain(light), full_check=True)


def _parse(path: Path) -> ModelProto:
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise InputError(f"{path} is no file, but a device or a pipe. Give the name of an ONNX file.")
        if size == 0:
            raise InputError(f"{path} is empty.")
        if size > PROTOBUF_LIMIT:
            raise InputError(
                f"{path} is larger than the 2 GB that an ONNX file may have. "
                "Save the model with its weights as external data."
            )
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error
    model = ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError as error:
        what = _OTHERS.get(path.suffix) or stand_ins.fault(path, "is not an ONNX file, or it is damaged")
        raise InputError(f"{path} {what}.") from error
    if not model.HasField("graph") or not model.ir_version:
        raise InputError(f"{path} {_OTHERS.get(path.suffix, 'is not an ONNX file: it holds no graph')}.")
    return model


def _checked(model: ModelProto, path: Path | None, what: str) -> tuple[ModelProto, tuple[str, ...]]:
    _check_opset(model, what)
    if endless := graph_checks.endless_functions(model):
        raise InputError(f"{what} cannot be read: {endless}.")
    ordered = graph_checks.in_order(model)
    if found := graph_checks.fault(ordered):
        raise InputError(f"{what} is not a valid ONNX model: {found}.")
    notes: tuple[str, ...] = ()
    if sparse := [tensor.values.name for tensor in ordered.graph.sparse_initializer]:
        notes += (f"Sparse initializers are read as the dense ones that runtimes make of them: {', '.join(sparse)}.",)
    dense = _densified(ordered, what) if sparse else ordered
    dense = graph_checks.completed(graph_checks.in_plain_terms(dense))
    if missing := graph_checks.missing_shape(dense):
        raise InputError(f"{what} is not a valid ONNX model: {missing}.")
    try:
        check(dense)
    except Exception as error:
        dense, told = _without_annotations(dense, path, error, what)
        notes += told
    if shared := graph_checks.shared_names(dense):
        dense = copied(dense)
        graph_checks.name_nodes(dense, unnamed=False)
        notes += (f"Several nodes have the same name and were given others: {', '.join(shared[:5])}.",)
    made = opset_of(dense) or OLDEST_OPSET
    if made < OLDEST_OPSET:
        dense = _of_oldest_opset(dense, what)
        notes += (f"Opset {made} is read as opset {OLDEST_OPSET}, which the compiled model has, too.",)
    return dense, notes


def _check_opset(model: ModelProto, what: str) -> None:
    newest, knows = onnx.defs.onnx_opset_version(), f"and the installed onnx {onnx.__version__} knows up to"
    if model.ir_version > onnx.IR_VERSION:
        raise InputError(
            f"{what} has IR version {model.ir_version}, {knows} {onnx.IR_VERSION}. "
            "Upgrade onnx, or export the model with an older one."
        )
    for opset in model.opset_import:
        if opset.domain not in STANDARD_DOMAINS:
            continue
        # The checker lets a newer opset pass and reads its operators by older rules.
        if opset.version > newest:
            raise InputError(
                f"{what} uses opset {opset.version}, {knows} {newest}. "
                "Upgrade onnx, or export the model with an older opset."
            )
        if 0 < opset.version < _OLDEST_CONVERTED:
            raise InputError(
                f"{what} uses opset {opset.version}, and maskc reads {_OLDEST_CONVERTED} and newer. "
                "Convert it with onnx.version_converter."
            )


def _of_oldest_opset(model: ModelProto, what: str) -> ModelProto:
    """A valid model of an older opset as one of `OLDEST_OPSET`: all but nodes and initializers stay as they are."""
    try:
        converted = convert_version(model, OLDEST_OPSET)
        check(converted)
    except Exception as error:
        raise InputError(
            f"{what} uses opset {opset_of(model)}, and cannot be read as opset {OLDEST_OPSET}: {in_brief(error)}. "
            "Export it with a newer opset."
        ) from error
    made = copied(model)
    del made.graph.node[:], made.graph.initializer[:], made.opset_import[:]
    made.graph.node.extend(converted.graph.node)
    made.graph.initializer.extend(converted.graph.initializer)
    made.opset_import.extend(converted.opset_import)
    return made


def _in_own_domain(model: ModelProto) -> ModelProto:
    """The model with operators in ONNX Runtime's domain that only it has in that of the standard.

    The checker then takes them, as it takes all that it does not know.
    """
    opset = opset_of(model) or 0
    kinds = {(node.domain, node.op_type) for node in all_nodes(model)}
    if not any(missing_in_standard(*kind, opset) for kind in kinds):
        return model
    moved = copied(model)
    for node in all_nodes(moved):
        if missing_in_standard(node.domain, node.op_type, opset):
            node.domain = DOMAIN
    if not any(o.domain == DOMAIN for o in moved.opset_import):
        moved.opset_import.append(onnx.helper.make_opsetid(DOMAIN, 1))
    return moved


def _without_annotations(
    model: ModelProto, path: Path | None, error: Exception, what: str
) -> tuple[ModelProto, tuple[str, ...]]:
    """The model without its shape annotations, and with true shapes of outputs, if the checker objected to those only.

    Editors that change a graph often leave old annotations of inner tensors, and exporters write wrong ones of what the
    bodies of control flow give. They mean nothing to what the model computes, and every runtime ignores them. Of
    outputs with another shape than they declare runtimes warn.
    """

    def refusal() -> InputError:
        return InputError(f"{what} is not a valid ONNX model: {in_brief(_with_names(model, error))}.")

    if not isinstance(error, onnx.shape_inference.InferenceError):
        raise refusal() from error
    stripped = copied(model)
    forgot = graph_checks.forget_inner_shapes(stripped)
    notes = graph_checks.redeclare_outputs(stripped)
    if not notes and not forgot:
        raise refusal() from error
    try:
        if path is not None:
            external_data.load(stripped, path)
        check(stripped)
    except Exception:
        raise refusal() from error
    if not notes:
        notes = (f"The shapes noted for inner tensors contradict the graph and are ignored: {in_brief(error)}.",)
    return stripped, notes


def _with_names(model: ModelProto, error: Exception) -> Exception:
    """The checker's error again, if it can be had from a copy in which every node has a name to be called by."""
    named = copied(model)
    graph_checks.name_nodes(named)
    try:
        if isinstance(error, onnx.shape_inference.InferenceError) or not has_external(model):
            check(named)
    except type(error) as again:
        return again
    except Exception:
        return error
    return error


def _densified(model: ModelProto, what: str) -> ModelProto:
    """The model with its sparse initializers as dense ones, which is what every runtime makes of them."""
    dense = copied(model)
    context = onnx.checker.DEFAULT_CONTEXT
    for sparse in dense.graph.sparse_initializer:
        try:
            onnx.checker.check_sparse_tensor(sparse, context)
        except Exception as error:
            raise InputError(f"{what} is not a valid ONNX model: {in_brief(error)}.") from error
        values, indices = numpy_helper.to_array(sparse.values), numpy_helper.to_array(sparse.indices)
        full = np.zeros(list(sparse.dims), values.dtype)
        if indices.ndim == 1:
            full.reshape(-1)[indices] = values
        else:
            full[tuple(indices.T)] = values
        dense.graph.initializer.append(numpy_helper.from_array(full, sparse.values.name))
    del dense.graph.sparse_initializer[:]
    return dense
