from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx_graphsurgeon import Node

# The number of an ONNX element type stands for one that numpy does not have.
_Dtype = np.dtype[Any] | int
_Shape = Sequence[int | str | None]

class Tensor:
    name: str

    @property
    def dtype(self) -> _Dtype | None: ...
    @property
    def shape(self) -> _Shape | None: ...
    @property
    def inputs(self) -> list[Node]: ...
    @inputs.setter
    def inputs(self, nodes: Iterable[Node]) -> None: ...
    @property
    def outputs(self) -> list[Node]: ...
    @outputs.setter
    def outputs(self, nodes: Iterable[Node]) -> None: ...
    def is_empty(self) -> bool: ...
    def to_constant(self, values: NDArray[Any]) -> Constant: ...

class Variable(Tensor):
    dtype: _Dtype | None
    shape: _Shape | None
    type: str

    def __init__(
        self, name: str, dtype: _Dtype | None = None, shape: _Shape | None = None, type: str = "tensor_type"
    ) -> None: ...
    @staticmethod
    def empty() -> Variable: ...

class LazyValues:
    shape: Sequence[int]
    dtype: np.dtype[Any]

    def __init__(self, tensor: onnx.TensorProto | onnx.SparseTensorProto) -> None: ...
    def load(self) -> NDArray[Any] | LazyValues: ...

class SparseValues(LazyValues):
    tensor: onnx.SparseTensorProto

class Constant(Tensor):
    _values: NDArray[Any] | LazyValues

    def __init__(self, name: str, values: NDArray[Any] | LazyValues) -> None: ...
    # But for the number of an ONNX element type, which a sparse one may have.
    @property
    def dtype(self) -> np.dtype[Any]: ...
    @property
    def shape(self) -> Sequence[int]: ...
    # Whatever `load` gives, for values that are loaded.
    @property
    def values(self) -> NDArray[Any] | LazyValues: ...
