"""The compilation of kernels, and the key of the compiled code that is kept on disk."""

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

from numba import njit

from sklearn_sparse_nn.runtime.kernels.cache import KernelCache

__all__ = ["compiled", "sources_digest"]


def sources_digest(folder: Path = Path(__file__).parents[1]) -> int:
    """Compute a number from every source file of the runtime.

    numba keeps compiled code until the file of the outermost function changes, and
    does not look at the files of the functions that it calls.

    Parameters
    ----------
    folder : Path
        The runtime's folder.

    Returns
    -------
    digest : int
        A number below 2**56. Where the package lies in an archive, there are no source
        files to read.
    """
    digest = sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.relative_to(folder).as_posix().encode())
        digest.update(path.read_bytes())
    return int.from_bytes(digest.digest()[:7], "big")


def compiled(make: Callable[[int], Callable[..., Any]], signature: object) -> Any:
    """Compile a function once, and keep the code on disk if a folder can be written.

    Parameters
    ----------
    make : callable
        The maker of the function. It takes the number of `sources_digest`, and the
        function closes over it: a closure's variables are part of the cache's key.
    signature : numba signature
        The only signature of the function.

    Returns
    -------
    function : numba dispatcher
    """
    compiler: Any = njit
    function = make(sources_digest())
    dispatcher = compiler(nogil=True, error_model="numpy")(function)
    dispatcher._cache = KernelCache(function)
    dispatcher.compile(signature)
    dispatcher.disable_compile()
    return dispatcher
