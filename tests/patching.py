"""Changes a module in processes that a test starts but cannot reach: workers of Ray, or StarDist's.

Python runs a file ``sitecustomize.py`` on its path when it starts.
"""

from __future__ import annotations

from pathlib import Path

_SCRIPT = """
import importlib.abc, importlib.util, sys

class Patching(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name != "{module}":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module
        def exec_module(module):
            load(module)
            patch(module)
        spec.loader.exec_module = exec_module
        return spec

sys.meta_path.insert(0, Patching())
"""


def patch_when_imported(folder: Path, module: str, source: str) -> None:
    """Write a ``sitecustomize.py``, for the PYTHONPATH of the processes.

    Parameters
    ----------
    folder : Path
        Where the file is written.
    module : str
        Name of the module that is changed when it has been imported.
    source : str
        Python that defines ``patch(module)``.
    """
    (folder / "sitecustomize.py").write_text(_SCRIPT.format(module=module) + source)
