"""Plant small bugs in the pure modules, one at a time, and count those that the tests find.

mutmut does it, as `[tool.mutmut]` in pyproject.toml says; this adds the table of docs/testing.md.
Run it as `make mutate`, or `make mutate MODULES="trainables.metrics sweep.plan"`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOUND = {1: "killed", 3: "killed", 0: "survived", 5: "no test", 33: "no test"}
"""What mutmut's exit codes mean; 3: pytest itself failed."""
TIMEOUT = (-24, 24, 36, 152, 255)
LEAST = 85.0
"""Per cent of the bugs in a module that have to be found."""


def kinds(meta: Path) -> Counter[str]:
    """Count what has become of the bugs of one module; those not tried yet left out."""
    codes = json.loads(meta.read_text(encoding="utf-8"))["exit_code_by_key"]
    return Counter(
        "killed" if code in TIMEOUT else FOUND.get(code, "other")
        for code in codes.values()
        if code is not None
    )


def table(folder: Path, modules: Sequence[str] = ()) -> tuple[list[str], bool]:
    """Return the lines of a table in Markdown, of some modules or of all that were tried, and
    whether in each of them enough bugs were found.
    """
    lines = ["| module | bugs tried | found | no test | found, % |", "|---|---|---|---|---|"]
    enough, total = True, Counter[str]()
    for meta in sorted(folder.rglob("*.py.meta")):
        found = kinds(meta)
        name = ".".join(meta.relative_to(folder).with_suffix("").with_suffix("").parts)
        if not found or (modules and name not in modules):
            continue
        total += found
        enough &= share(found) >= LEAST
        lines.append(line(f"`{name}`", found))
    return [*lines, line("all", total)], enough


def share(found: Counter[str]) -> float:
    """Return the percentage of bugs that were found."""
    return 100 * found["killed"] / max(1, found.total())


def line(name: str, found: Counter[str]) -> str:
    """Return one row of the table."""
    values = (name, found.total(), found["killed"], found["no test"], f"{share(found):.1f}")
    return f"| {' | '.join(map(str, values))} |"


def main() -> int:
    """Run mutmut, print the table; the exit code says whether enough bugs were found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("modules", nargs="*", help="such as trainables.metrics; default: all")
    parser.add_argument("--jobs", default="2", metavar="N", help="processes at once (2)")
    parser.add_argument(
        "--one-in",
        type=int,
        choices=(1, 2, 5, 10),
        default=1,
        help="try every bug, or an even sample of them",
    )
    parser.add_argument("--table", action="store_true", help="print the last table only")
    arguments = parser.parse_args()
    code = 0
    if not arguments.table:
        last = {1: "", 2: "[02468]", 5: "[05]", 10: "0"}[arguments.one_in]
        names = [f"{module}.*{last}" for module in arguments.modules or ["*"]]
        shutil.rmtree(ROOT / "mutants" / "tests", ignore_errors=True)  # tests that have moved
        mutmut = Path(sys.executable).with_name("mutmut")
        command = [mutmut, "run", "--max-children", arguments.jobs, *names]
        quick = {"SEGSWEEP_QUICK": "1", "OMP_NUM_THREADS": "1"}
        code = subprocess.run(command, cwd=ROOT, env=os.environ | quick, check=False).returncode
    lines, enough = table(ROOT / "mutants", arguments.modules)
    print("\n".join([f"mutmut {version('mutmut')}", *lines]))
    return code or (0 if enough else 1)


if __name__ == "__main__":
    sys.exit(main())
