"""When and where the passes were measured, for records and in words."""

from __future__ import annotations

import datetime
import os
import platform
from importlib.metadata import version
from typing import Any


def found(load: float) -> dict[str, Any]:
    """The date, the machine with its load (`load` is that before), and versions, as a record holds them."""
    return {
        "date": datetime.date.today().isoformat(),
        "machine": {
            "processor": platform.machine(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "load": f"load of the machine {load:.1f} before and {os.getloadavg()[0]:.1f} after",
        },
        "versions": {name: version(name) for name in ("numpy", "onnx", "onnx-graphsurgeon")},
    }


def told(record: dict[str, Any]) -> str:
    """What a record holds of them, in a sentence."""
    machine = record["machine"]
    where = f"{machine['processor']}, {machine['cores']} cores, Python {machine['python']}"
    what = ", ".join(f"{name} {number}" for name, number in record["versions"].items())
    return f"{record['date']}; {where}; {what}; {machine['load']}."
