"""What is asked of every operator stays little: a hook is on `Op` if several kinds of operators answer it."""

from collections.abc import Iterator

from passes.ops import Op

#: methods, attributes and properties of `Op` together
MOST = 21

#: how many classes answer a hook, at least
FEW = 3


#: hooks that fewer classes answer, and why they are hooks all the same
def classes(base: type[Op]) -> Iterator[type[Op]]:
    """The classes in `passes` derived from this one."""
    for each in base.__subclasses__():
        if each.__module__.startswith("passes."):
            yield each
        yield from classes(each)


def members() -> list[str]:
    return [name for name in vars(Op) if not name.startswith("__")]


def test_few_questions_are_asked_of_every_operator() -> None:
    assert len(members()) <= MOST


def test_hooks_are_answered_by_several_classes() -> None:
    answers = {name: {c for c in classes(Op) if name in vars(c)} for name in members()}
    assert not {name for name, found in answers.items() if len(found) < FEW}
