"""`maskc version`."""

from __future__ import annotations

from maskc.cli.command import command
from maskc.cli.output import print_json
from maskc.cli.shared_options import Json


@command(limits=False)
def version(as_json: Json = False) -> None:
    """Print the versions of maskc and its libraries."""
    from maskc.results.environment import installed_versions

    found = installed_versions()
    if as_json:
        print_json(found)
        return
    for name, number in found.items():
        print(f"{name} {number}")
