"""Compiled models against their sources in OpenVINO."""

from collections.abc import Callable
from typing import Any

from onnx import ModelProto, TensorProto, inliner

from maskc.errors import UnavailableError
from maskc.frontend.graph_queries import float_types
from maskc.runtime.openvino_session import OpenVinoSession
from tests.generators.builder import Network
from tests.generators.check import assert_same_function
from tests.generators.running import CannotRunError, Feeds, Runner


class OpenVinoRunner:
    """Runs a model in OpenVINO, with local functions inlined, as maskc does when it reads one."""

    def __init__(self, model: ModelProto) -> None:
        try:
            self._session = OpenVinoSession(inliner.inline_local_functions(model) if model.functions else model)
        except UnavailableError as error:
            raise CannotRunError(str(error)) from error

    def __call__(self, feeds: Feeds) -> list[Any]:
        return list(self._session.run(feeds).values())


def assert_same_in_openvino(network: Network, compiled: ModelProto) -> bool:
    """The compiled model gives in OpenVINO what its source gives.

    That is what the source gives in OpenVINO or, where OpenVINO gets the source wrong, in ONNX Runtime; whether the
    former holds.

    Raises `CannotRunError` where OpenVINO cannot run the source, and `AssertionError` where it cannot run what was made
    of it.
    """
    model = network.model
    source = OpenVinoRunner(model)
    try:
        result = OpenVinoRunner(compiled)
    except CannotRunError as error:
        raise AssertionError(f"OpenVINO runs the source, and not the compiled model: {error}") from error

    def compare(reference: Callable[[ModelProto], Any]) -> None:
        assert_same_function(
            model,
            compiled,
            symbols=network.symbols,
            ranges=network.ranges,
            samples=1,
            rtol=1e-5 if TensorProto.DOUBLE in float_types(model) else None,  # it computes float64 in single precision
            run=lambda given: result if given is compiled else reference(given),
        )

    try:
        compare(lambda given: source if given is model else OpenVinoRunner(given))
    except AssertionError:
        compare(Runner)
        return False
    return True
