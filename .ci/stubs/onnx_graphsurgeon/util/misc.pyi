from typing import TypeVar

_Element = TypeVar("_Element")

class SynchronizedList(list[_Element]): ...
