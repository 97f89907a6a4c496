"""Build step: a wheel has the passes inside `maskc`, so that it takes no other name, nor a user's folder theirs."""

from __future__ import annotations

import ast
import re
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

# `from passes.ops import Op` and `import passes`, the two forms that are written.
_FROM, _IMPORT = re.compile(r"^(\s*from )(?=passes[. ])", re.M), re.compile(r"^(\s*import )passes$", re.M)


class _BuildInside(build_py):
    """Moves `passes` to `maskc.passes` in what is built; an editable install runs the source as it is."""

    def run(self) -> None:
        """Build, then move and rewrite the imports."""
        built = Path(self.build_lib)
        if not self.editable_mode:
            shutil.rmtree(built, ignore_errors=True)
        super().run()
        if self.editable_mode:
            return
        shutil.move(built / "passes", built / "maskc" / "passes")
        for file in built.rglob("*.py"):
            text = file.read_text(encoding="utf-8")
            inside = _IMPORT.sub(r"\1maskc.passes as passes", _FROM.sub(r"\1maskc.", text))
            for node in ast.walk(ast.parse(inside)):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                module = node.module if isinstance(node, ast.ImportFrom) and not node.level else None
                if "passes" in {name.partition(".")[0] for name in [*names, module or ""]}:
                    raise SystemExit(f"{file}: write `import passes` or `from passes.x import y`.")
            file.write_text(inside, encoding="utf-8")


setup(cmdclass={"build_py": _BuildInside})
