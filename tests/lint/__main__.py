"""`python -m tests.lint`: all checks, each fault on a line; exit code 1 where there is one."""

import sys

from tests.lint import generated, pages, rooms, wording

CHECKS = (rooms.faults, wording.faults, pages.faults, generated.faults)


def main() -> int:
    """Print all faults; 1 if there is any."""
    faults = [fault for check in CHECKS for fault in check()]
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
