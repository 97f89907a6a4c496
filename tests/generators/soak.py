"""Compiles random networks by the thousand and reports each one that breaks a promise.

python -m tests.generators.soak --count 10000 --seed 0 --jobs 2
python -m tests.generators.soak --count 1 --seed 1234 --minimize
"""

from __future__ import annotations

import argparse
import signal
import time
import traceback
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace

from onnx import ModelProto

from tests.generators.builder import Network
from tests.generators.check import adapters_cost, check, describe
from tests.generators.minimize import minimize
from tests.generators.networks import network


@dataclass(frozen=True)
class Failure:
    """A seed that failed: `kind` is short and the same for like failures, `text` says all."""

    seed: int
    kind: str
    text: str


class _SlowError(Exception):
    """The compiler did not come back."""


def _late(*_: object) -> None:
    raise _SlowError("no result within the time limit")


def kind_of(error: BaseException) -> str:
    """A short name of a failure, without the names of tensors and numbers in it."""
    first = str(error).split("\n")[0]
    words = [w for w in first.split() if not any(c.isdigit() or c in "/_[]{}'\"" for c in w)]
    last = traceback.extract_tb(error.__traceback__)[-1]
    where = "" if isinstance(error, AssertionError) and "tests" in last.filename else f" at {last.name}:{last.lineno}"
    return f"{type(error).__name__}: {' '.join(words)[:90]}{where}"


PRICES = (
    None,
    0.01,
    None,
    1e9,
    4.0,
)  # of an adapter's element, by seed: as measured, hardly any, prohibitive


def attempt(net: Network, limit: int = 60, price: float | None = None) -> BaseException | None:
    """What goes wrong with one network, or None. Gives up after `limit` seconds."""
    signal.signal(signal.SIGALRM, _late)
    signal.alarm(limit)
    try:
        with adapters_cost(price):
            check(net, folded=True)
    except Exception as error:
        return error
    finally:
        signal.alarm(0)
    return None


def _run(seeds: range) -> tuple[int, list[Failure]]:
    failures = []
    for seed in seeds:
        net = network(seed)
        error = attempt(net, price=PRICES[seed % len(PRICES)])
        if error is not None:
            if isinstance(error, AssertionError):
                text = str(error)
            else:
                text = describe(net.model) + "\n" + "".join(traceback.format_exception(error)[-6:])
            failures.append(Failure(seed, kind_of(error), text))
    return len(seeds), failures


def smaller(net: Network, price: float | None = None) -> Network:
    """The smallest network found that fails in the same way."""
    error = attempt(net, price=price)
    assert error is not None
    wanted = kind_of(error)

    def fails(model: ModelProto) -> bool:
        other = attempt(replace(net, model=model), limit=20, price=price)
        return other is not None and kind_of(other) == wanted

    return replace(net, model=minimize(net.model, fails))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--minimize", action="store_true", help="make the first of each kind of failure smaller")
    parser.add_argument("--show", type=int, default=0, help="failures of each kind to print in full")
    arguments = parser.parse_args()
    start = time.perf_counter()
    last = arguments.seed + arguments.count
    blocks = [range(s, min(s + 50, last)) for s in range(arguments.seed, last, 50)]
    failures: list[Failure] = []
    done = 0

    def take(result: tuple[int, list[Failure]]) -> int:
        for failure in result[1]:
            print(f"seed {failure.seed}: {failure.kind}", flush=True)
        failures.extend(result[1])
        if (done + result[0]) // 1000 > done // 1000:
            print(f"{done + result[0]} networks", flush=True)
        return result[0]

    if arguments.jobs > 1:
        with ProcessPoolExecutor(arguments.jobs) as workers:
            for result in workers.map(_run, blocks):
                done += take(result)
    else:
        for block in blocks:
            done += take(_run(block))
    kinds = Counter(f.kind for f in failures)
    for kind, times in kinds.most_common():
        of_kind = [f for f in failures if f.kind == kind]
        print(f"== {times} x {kind}\n   seeds {' '.join(str(f.seed) for f in of_kind[:12])}")
        print(f"   {of_kind[0].text.splitlines()[-1 if 'Assertion' not in kind else 0][:300]}")
        for failure in of_kind[: max(arguments.show, int(arguments.minimize))]:
            if arguments.minimize:
                price = PRICES[failure.seed % len(PRICES)]
                net = smaller(network(failure.seed), price)
                error = attempt(net, price=price)
                print(f"-- seed {failure.seed}, made smaller\n{error}\n{describe(net.model)}")
            else:
                print(f"-- seed {failure.seed}\n{failure.text}")
    print(f"{done} networks, {len(failures)} failures, {time.perf_counter() - start:.1f} s")
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
