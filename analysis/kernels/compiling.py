"""`compiled`: numba's compiler, with a cache that notices an edit in any file of this folder.

Compiled code contains the functions that it calls, but numba's own cache looks at one file only:
after an edit in another file it goes on with the old result.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
from numba.core.caching import FunctionCache, IndexDataCacheFile

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """Compile a function on its first call with arguments of each type, and keep the result.

    Parameters
    ----------
    function : callable
        Of what numba's nopython mode knows. It may call compiled functions of this folder only:
        an edit elsewhere would not be noticed.

    Returns
    -------
    callable
        The same to its callers. Results are kept where numba keeps its own (``NUMBA_CACHE_DIR``,
        ``__pycache__`` beside the source, or the user's cache); where nothing can be written,
        every process compiles anew.
    """
    made = numba.njit(function)
    if hasattr(made, "enable_caching"):  # else NUMBA_DISABLE_JIT is set
        with suppress(RuntimeError):  # no folder can be written
            made._cache = _Cache(function)
    return cast(Function, made)


@cache
def folder_hash() -> str:
    """Return a hash of all sources of this folder."""
    content = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        content.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
    return content.hexdigest()


class _Files(IndexDataCacheFile):
    """One file for each signature and state of the folder.

    numba numbers its files in an index, and processes that save at once overwrite each other's.
    """

    def load(self, key: tuple[Any, ...]) -> Any:
        try:
            stored, data = self._load_data(self._name(key))
        except Exception:  # not there, or damaged, and unpickling may then raise anything
            return None
        return data if stored == key else None

    def save(self, key: tuple[Any, ...], data: Any) -> None:
        self._save_data(self._name(key), (key, data))

    def _name(self, key: tuple[Any, ...]) -> str:
        digest = hashlib.sha256(repr((numba.__version__, folder_hash(), key)).encode())
        return str(self._data_name(int(digest.hexdigest()[:16], 16)))


class _Cache(FunctionCache):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        self._cache_file = _Files(self.cache_path, self._impl.filename_base, folder_hash())

    def save_overload(self, sig: Any, data: Any) -> None:
        with suppress(OSError):  # the disk is full: compiled again next time
            super().save_overload(sig, data)
