"""Interface of sessions, and the choice of runtime and hardware by the name of a provider."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol, TypeVar

from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, ValueInfoProto

from maskc.errors import CrashError, InputError, MaskcError, RunError, UnavailableError
from maskc.frontend.graph_queries import copied, name_of
from maskc.runtime import isolation, onnxruntime_session, openvino_session
from maskc.runtime.nvidia_providers import GPUS
from maskc.runtime.onnxruntime_session import OnnxRuntimeSession
from maskc.runtime.openvino_session import OpenVinoSession

Provider = Literal[onnxruntime_session.Provider, "openvino"]
Result = TypeVar("Result")
_PROVIDERS: tuple[Provider, ...] = ("cpu", "cuda", "tensorrt", "openvino")


class Session(Protocol):
    """A model loaded in a runtime."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs, in order."""

    @property
    def finest(self) -> int:
        """The finest floating-point type (`TensorProto.DataType`) that the runtime computes with."""

    @property
    def note(self) -> str:
        """A sentence on what is not computed in the types of the model, empty where all is."""

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Arrays by name of what the model gives. Raises `RunError` when it fails on these inputs."""


def load(
    model: ModelProto, provider: Provider = "cpu", *, optimized: bool = True, exact: bool = False, timed: bool = False
) -> Session:
    """The model in the runtime of the provider.

    `optimized=False` runs every operator as it is written, and `exact` quantised layers without further rounding: 8-bit
    products without saturation, biases in float as they are. `timed` sessions keep the memory of a run for the next.

    OpenVINO has no such switch. Operators as they are written are the same function wherever they run, so ONNX Runtime
    on the CPU takes its place. Raises `RunError` when the runtime refuses the model, `UnavailableError` when the
    provider cannot be used here or lacks an operator of the model, and `CrashError` where a crash is known of.
    """

    def loaded(model: ModelProto) -> Session:
        if provider != "openvino":
            return OnnxRuntimeSession(model, provider, optimized=optimized, exact=exact, timed=timed)
        return OpenVinoSession(model) if optimized else OnnxRuntimeSession(model, optimized=False)

    if isolation.suspected:
        return _Isolated(model, loaded, runtime_title(provider if optimized else "cpu"))
    return loaded(model)


def strict(session: Session, model: ModelProto, provider: Provider) -> Session:
    """The session, which refuses every input that is none of the model's.

    OpenVINO checks no index: where one points beyond a table it gives zeros, or less, and two models that are the same
    function need not agree. So ONNX Runtime, where it knows the model, has to accept an input first.
    """
    if provider != "openvino":
        return session
    try:
        return _Strict(session, load(model, optimized=False))
    except (RunError, UnavailableError):
        return session


class _Strict:
    """A session on those inputs only on which another runs."""

    def __init__(self, session: Session, judge: Session) -> None:
        self.outputs, self.finest, self.note = session.outputs, session.finest, session.note
        self._session, self._judge = session, judge

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        self._judge.run(inputs)
        return self._session.run(inputs)


class _Isolated:
    """A model that a process of its own loads and runs, a new one each time.

    Raises what a session does, and `CrashError`, which names the node.
    """

    def __init__(self, model: ModelProto, load: Callable[[ModelProto], Session], runtime: str) -> None:
        self._model, self._load, self._runtime = model, load, runtime
        self.outputs, self.finest, self.note = self._with(lambda made: (made.outputs, made.finest, made.note))

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """As `Session.run`."""
        return self._with(lambda session: session.run(inputs))

    def _with(self, use: Callable[[Session], Result]) -> Result:
        try:
            return isolation.isolated(lambda: use(self._load(self._model)), self._runtime)
        except CrashError as error:
            node = self._first_to_crash(use)
            advice = "Try another version of it, or `maskc verify` with another --provider."
            raise CrashError(f"{error} at {node.op_type} '{name_of(node)}'. {advice}") from error

    def _first_to_crash(self, use: Callable[[Session], Result]) -> NodeProto:
        """The first node with which the model crashes when all that comes after it is left out, by halves."""
        nodes = self._model.graph.node
        runs, crashes = 0, len(nodes)
        while crashes - runs > 1:
            middle = (runs + crashes) // 2
            part = _beginning(self._model, middle)
            try:
                isolation.isolated(lambda part=part: use(self._load(part)))  # type: ignore[misc]
                runs = middle
            except CrashError:
                crashes = middle
            except MaskcError:  # which is no crash
                runs = middle
        node: NodeProto = nodes[crashes - 1]
        return node


def _beginning(model: ModelProto, count: int) -> ModelProto:
    """The first nodes of the model, so many, of which the last makes the outputs."""
    part = copied(model)
    del part.graph.node[count:], part.graph.output[:]
    part.graph.output.extend(ValueInfoProto(name=name) for name in part.graph.node[-1].output if name)
    return part


def choose_provider(wanted: str) -> Provider:
    """The provider that the user asked for; `auto` is CUDA where it can be used, else the CPU.

    Raises `UnavailableError` for one that cannot be used here, and `InputError` for a name that none has.
    """
    if wanted == "auto":
        try:
            return choose_provider("cuda")
        except UnavailableError:
            return "cpu"
    provider = next((name for name in _PROVIDERS if name == wanted), None)
    if provider is None:
        raise InputError(f"There is no provider '{wanted}'. There are {', '.join(_PROVIDERS)} and auto.")
    if provider == "openvino":
        openvino_session.import_openvino()
    elif provider != "cpu":
        onnxruntime_session.require_provider(provider)
    return provider


def runtime_title(provider: str) -> str:
    """The name of a provider's runtime in sentences."""
    return "OpenVINO" if provider == "openvino" else "ONNX Runtime"


def hardware_title(provider: str) -> str:
    """The name of a provider's hardware in sentences."""
    return GPUS[provider].title if provider in GPUS else "the CPU"


def single_precision_option(provider: str) -> str:
    """The option by which a provider's runtime computes products with weights of few bits in single precision."""
    runtime = openvino_session if provider == "openvino" else onnxruntime_session
    return "=".join(runtime.SINGLE_PRECISION)


def place(provider: str) -> str:
    """Runtime and hardware of a provider in sentences: in ONNX Runtime on the CPU."""
    return f"in {runtime_title(provider)} on {hardware_title(provider)}"
