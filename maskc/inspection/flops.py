"""FLOPs of a stored model."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import TypeVar

import passes
from maskc import frontend
from maskc.errors import InputError
from maskc.frontend import Source
from maskc.frontend.input_sizes import Shapes, fixed
from maskc.frontend.mask_files import Masks, apply_masks
from maskc.inspection.arguments import public
from passes.errors import GraphError, SizeError
from passes.sizes.cost_values import Cost
from passes.sizes.sizes_to_count_at import Sizes, still_open

_Given = TypeVar("_Given")


@contextlib.contextmanager
def telling_of(name: str) -> Iterator[None]:
    """A context in which errors of the graph and the sizes become an `InputError` that names the model."""
    try:
        yield
    except (GraphError, SizeError) as error:
        raise InputError(f"{name}: {error}") from error


def count(source: Source, at: Sizes | None = None) -> Cost:
    """Count a model at these sizes. Raises `InputError` for those of the graph and the sizes."""
    with telling_of(source.name):
        return passes.count(source.model, at=at)


def for_each(before: Source, after: Source, sizes: Mapping[str, _Given] | None) -> tuple[dict[str, _Given], ...]:
    """Sizes by input name, less those of an input that only the other of two models has.

    A name that neither has stays in both, so that it is refused where it is used.
    """
    inputs = [{value.name for value in source.model.graph.input} for source in (before, after)]
    return tuple(
        {name: given for name, given in (sizes or {}).items() if name in own or name not in other}
        for own, other in zip(inputs, reversed(inputs), strict=True)
    )


def count_both(before: Source, after: Source, at: Sizes | None = None) -> tuple[Cost, Cost]:
    """Count two models at sizes that both have, as far as one leaves open what the other has.

    at: those asked for; an input that only one of them has gets its sizes there, and a name that neither has is
    refused. Raises as `count` does.
    """
    asked = for_each(before, after, at)
    costs = [count(source, sizes) for source, sizes in zip((before, after), asked, strict=True)]
    if costs[0].at.sizes != costs[1].at.sizes:
        freer = 0 if len(costs[0].at.open) > len(costs[1].at.open) else 1
        model = (before, after)[freer].model
        with contextlib.suppress(SizeError):  # where it does not work at these
            like = still_open(model, costs[1 - freer].at.sizes) | asked[freer]
            costs[freer] = passes.count(model, at=like)
    return costs[0], costs[1]


@public
def flops(
    model: frontend.Model,
    masks: Masks | None = None,
    *,
    signature: str | None = None,
    shapes: Shapes | None = None,
    at: Sizes | None = None,
) -> Cost:
    """Count a model as it stands: FLOPs, MACs and parameters, and the share of each node.

    FLOPs and MACs are those at the sizes that the result has in `at`. `shapes` fixes sizes and `signature` is that of a
    SavedModel as for `compile`, and `at` says at what others to count, by input name, one entry per dimension: a
    number, or None for one to choose. Those that nothing says are chosen: a batch of 1, 224 for the height and the
    width of an image, 128 for any other axis, or others where the model does not work at these. With `masks`, the count
    is that of the model compiled with them, with `align` `none`. Raises as `compile` does.

    Example:
        >>> flops("model.onnx").macs > 0
        True
    """
    source = fixed(frontend.read(model, signature=signature), shapes)
    if masks is None:
        return count(source, at)
    target = apply_masks(source.model, masks)
    with telling_of(source.name):
        return passes.shrink(target, at=at).report.after
