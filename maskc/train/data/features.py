"""Feature specifications: the fields of records, and the model inputs made from them."""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal, Self

import pydantic

from maskc.train.data.config import Checked

# How a record stores values: whole numbers, floating-point numbers, or strings.
Stored = Literal["int", "float", "string"]
Size = pydantic.PositiveInt


@dataclass(frozen=True)
class Field:
    """One field of the records.

    Attributes:
        name: of the field.
        stored: how records store its values.
        shape: of the values; None if there may be any number of them.
        default: what to take, as many times, where a record lacks the field; None if that is an error.
        size: the values are indices below this; None if they may be anything.
        beside: another field with as many values.
    """

    name: str
    stored: Stored
    shape: tuple[int, ...] | None = None
    default: float | str | None = None
    size: int | None = None
    beside: str | None = None


class Dense(Checked):
    """Numbers, as many in each record. The model is given float32 of shape `(batch, *shape)`.

    Attributes:
        shape: of one example; a scalar has shape `(1,)`.
        type: how records store it, as "float" or "int".
        default: what to take where a record lacks the field; by default that is an error.
    """

    kind: Literal["dense"] = "dense"
    shape: tuple[Size, ...] = (1,)
    type: Literal["int", "float"] = "float"
    default: float | None = None


class Sparse(Checked):
    """A long vector, mostly zero, as the positions of the others. The model is given float32 of shape `(batch, size)`.

    Attributes:
        size: of the vector; positions are int64 from 0 to `size - 1`, and any number of them.
        values: the field with the values at these positions, floats, as many; by default they are all 1. Values at
            the same position are added up.
    """

    kind: Literal["sparse"] = "sparse"
    size: Size
    values: str | None = None


class Ids(Checked):
    """How values become indices: exactly one of the three must be given.

    Attributes:
        size: the values are indices already, int64 from 0 to `size - 1`.
        vocabulary: the values that are told apart, strings or whole numbers; all others share index 0.
        buckets: strings, or whole numbers with `type: int`, are spread over so many indices by a hash that is the same
            everywhere and always (FarmHash).
        type: with `buckets`, how records store the values.
    """

    size: Size | None = None
    vocabulary: tuple[str, ...] | tuple[int, ...] | None = pydantic.Field(None, min_length=1)
    buckets: Size | None = None
    type: Literal["int", "string"] = "string"

    @pydantic.model_validator(mode="after")
    def _one_way(self) -> Self:
        if [self.size, self.vocabulary, self.buckets].count(None) != 2:
            raise ValueError("give exactly one of size, vocabulary and buckets")
        if self.vocabulary is not None and len(set(self.vocabulary)) != len(self.vocabulary):
            raise ValueError("the vocabulary has a value twice")
        return self

    @property
    def stored(self) -> Stored:
        """How records store the values."""
        if self.buckets is not None:
            return self.type
        return "string" if self.vocabulary is not None and isinstance(self.vocabulary[0], str) else "int"

    @property
    def depth(self) -> int:
        """How many rows an embedding of it needs: one for each index."""
        return self.size or self.buckets or 1 + len(self.vocabulary or ())


class Categorical(Ids):
    """One value of many. The model is given int32 of shape `(batch,)`, below `depth`.

    Attributes:
        default: the value to take where a record lacks the field; by default that is an error.
    """

    kind: Literal["categorical"] = "categorical"
    default: str | int | None = None

    @pydantic.model_validator(mode="after")
    def _default_fits(self) -> Self:
        if self.default is not None and isinstance(self.default, str) != (self.stored == "string"):
            raise ValueError(f"the default must be {'a string' if self.stored == 'string' else 'a whole number'}")
        if self.size is not None and isinstance(self.default, int) and not 0 <= self.default < self.size:
            raise ValueError(f"the default must be from 0 to {self.size - 1}")
        return self


class Sequence(Ids):
    """Values in order, of any number. The model is given int32 of shape `(batch, length)`, below `depth`.

    Index 0 is padding, which comes last; the indices of values are greater by one than those of a categorical.

    Attributes:
        length: of the padded sequence.
        keep: which end of a longer sequence to keep, "last" or "first".
    """

    kind: Literal["sequence"] = "sequence"
    length: Size
    keep: Literal["last", "first"] = "last"

    @property
    def depth(self) -> int:
        """How many rows an embedding of it needs, with that of the padding."""
        return 1 + super().depth


Feature = Annotated[Dense | Sparse | Categorical | Sequence, pydantic.Field(discriminator="kind")]


class Label(Checked):
    """What to predict: float32 (or int64, with `type: int`) of shape `(batch, *shape)`."""

    name: str
    shape: tuple[Size, ...] = (1,)
    type: Literal["int", "float"] = "float"


class FeatureSpec(Checked):
    """A feature specification: what each record holds.

    In a file:

        features:
          age: {kind: dense}
          genres: {kind: sparse, size: 19}
          user: {kind: categorical, size: 943}
          gender: {kind: categorical, vocabulary: [F, M]}
          title: {kind: categorical, buckets: 1000}
          history: {kind: sequence, size: 1682, length: 10}
        label: {name: liked}
        weight: importance

    Attributes:
        features: by the name of the field in the records; `inputs` says what the model calls them.
        label: what to predict; a name alone stands for one float.
        weight: the field with the example's weight, one float; by default all weigh the same.

    Example:
        >>> spec = FeatureSpec(features={"age": {"kind": "dense"}}, label="liked")
        >>> spec.features["age"].shape
        (1,)
    """

    features: dict[str, Feature] = pydantic.Field(min_length=1)
    label: Label
    weight: str | None = None

    @pydantic.field_validator("label", mode="before")
    @classmethod
    def _name_alone(cls, value: object) -> object:
        return {"name": value} if isinstance(value, str) else value

    @pydantic.model_validator(mode="after")
    def _distinct(self) -> Self:
        values = [feature.values for feature in self.features.values() if isinstance(feature, Sparse)]
        used = [*self.features, self.label.name, *(name for name in (*values, self.weight) if name is not None)]
        if twice := next((name for name in used if used.count(name) > 1), None):
            raise ValueError(f"the field {twice!r} is used twice")
        # TensorFlow does not tell names apart by case.
        fields: dict[str, str] = {}
        for field, name in self.inputs.items():
            if (other := fields.setdefault(name.lower(), field)) != field:
                raise ValueError(f"the model cannot have inputs for both {other!r} and {field!r}: rename one of them")
        return self

    def fields_of_records(self) -> Iterator[Field]:
        """Yields every field that records hold, of features, label and weight."""
        for name, feature in self.features.items():
            match feature:
                case Dense(shape=shape, type=stored, default=default):
                    whole = default is not None and stored == "int"
                    yield Field(name, stored, shape, int(default or 0) if whole else default)
                case Sparse(size=size, values=values):
                    yield Field(name, "int", size=size)
                    if values is not None:
                        yield Field(values, "float", beside=name)
                case Categorical(default=default, size=size):
                    yield Field(name, feature.stored, (), default, size)
                case Sequence(size=size):
                    yield Field(name, feature.stored, size=size)
        yield Field(self.label.name, self.label.type, self.label.shape)
        if self.weight is not None:
            yield Field(self.weight, "float", ())

    @property
    def inputs(self) -> dict[str, str]:
        """The name of the model's input for each field; the same, unless the field's is no name to a program."""
        return {field: input_name(field) for field in self.features}


def input_name(field: str) -> str:
    """Returns what a model's input for a field is called.

    Characters but ASCII letters, digits and `_` become `_`; where a letter must come first, `arg_` does; and a word
    that Python keeps for itself ends in `_`.

    Example:
        >>> [input_name(field) for field in ("age", "hours-per-week", "2nd", "class")]
        ['age', 'hours_per_week', 'arg_2nd', 'class_']
    """
    name = re.sub(r"\W", "_", field, flags=re.ASCII)
    name = name if name[:1].isalpha() else f"arg_{name}"
    return f"{name}_" if keyword.iskeyword(name) or name == "self" else name
