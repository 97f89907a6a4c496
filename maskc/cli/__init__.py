"""The `maskc` command: parsing and printing, nothing else.

One file for each command. The heavy imports are inside the commands, so that `maskc --help` answers at once.
"""

import functools

from maskc.cli import application, standard_streams, supervision
from maskc.cli.application import EXIT_CODES, app

# In the order in which the help lists them.
from maskc.cli import compile, verify, explain, flops, diff, check  # noqa: F401  isort: skip
from maskc.cli.pruning import prune, sweep  # noqa: F401  isort: skip
from maskc.cli import train, demo, version  # noqa: F401  isort: skip

__all__ = ["EXIT_CODES", "app", "main"]


def main() -> None:
    """Run the command line, under its name even for `python -m maskc`."""
    standard_streams.fill_closed()
    supervision.supervised(functools.partial(app, prog_name="maskc"), application.tell_end)
