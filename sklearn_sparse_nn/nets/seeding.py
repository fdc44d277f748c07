"""Seeds, and the global random state: borrowed and restored exactly."""

import random
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from numbers import Integral, Real
from types import FunctionType
from typing import Any

import numpy as np
import torch
from sklearn.utils import check_random_state

__all__ = ["GlobalState", "as_seed", "is_ours", "isolated_rng", "plain_torch"]

# The global generators belong to the process, so fits of user nets in several
# threads take turns: interleaved they would be neither reproducible nor restorable.
_TURN = threading.RLock()
_OURS = ("sklearn_sparse_nn.", "skorch.", "torch.optim.")


def as_seed(random_state: Any) -> int:
    """Make a seed of a random state, without touching the global one.

    Parameters
    ----------
    random_state : int, RandomState instance or None
        An int is its own seed. An instance is drawn from. None takes the operating
        system's entropy, where scikit-learn would draw from numpy's global generator
        and so change it.

    Returns
    -------
    seed : int

    Examples
    --------
    >>> as_seed(7)
    7
    """
    if random_state is None:
        return int(np.random.SeedSequence().generate_state(1)[0])
    if isinstance(random_state, Integral):
        return int(random_state)
    return int(check_random_state(random_state).randint(2**31 - 1))


def is_ours(*parts: Any) -> bool:
    """Check whether all parts come from this package, skorch or `torch.optim`.

    Parts that someone else wrote may draw from the global generators.

    Parameters
    ----------
    *parts : callback, class, function, str, number, None, or lists of these
        The parts; what they were made with is checked too.

    Returns
    -------
    ours : bool

    Examples
    --------
    >>> from skorch.callbacks import EarlyStopping, EpochScoring
    >>> is_ours("adamw", [("stop", EarlyStopping())], None)
    True
    >>> from sklearn.metrics import max_error
    >>> is_ours([EpochScoring(max_error)])
    False
    """
    return all(map(_is_ours, parts))


def _is_ours(part: Any) -> bool:
    if part is None or part is print or isinstance(part, (str, Real)):
        return True
    if isinstance(part, (list, tuple)):
        return all(map(_is_ours, part))
    is_code = isinstance(part, (type, FunctionType))
    module = part.__module__ if is_code else type(part).__module__
    nested = {}
    if not is_code and hasattr(part, "get_params"):
        nested = part.get_params(deep=False)
    return f"{module}.".startswith(_OURS) and all(map(_is_ours, nested.values()))


class GlobalState:
    """The state of the global generators, as far as a training run uses them.

    Parameters
    ----------
    seed : int
        What python's, numpy's and torch's global generators are seeded with, in
        [0, 2**32).
    used : bool, default=True
        Whether code that someone else wrote may draw from them. If not, every method
        leaves them alone.
    own_net : bool, default=False
        Whether the net is a user's own, as in `plain_torch`.
    """

    def __init__(self, seed: int, used: bool = True, *, own_net: bool = False) -> None:
        self.seed = seed
        self.used = used
        self.own_net = own_net

    @contextmanager
    def isolated(self) -> Iterator[None]:
        """Seed the global generators, then restore them as they were found.

        What else of torch is global is plain inside, as in `plain_torch`.
        """
        rng = isolated_rng(self.seed) if self.used else nullcontext()
        with plain_torch(own_net=self.own_net, autocast=self.own_net), rng:
            yield

    def copy(self) -> Any:
        """Copy the state as it is now; None where it is not used."""
        if not self.used:
            return None
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
        numpy_state = np.random.get_state()  # noqa: NPY002
        return random.getstate(), numpy_state, torch.get_rng_state(), cuda

    def restore(self, state: Any) -> None:
        """Set a state that `copy` made; do nothing for None.

        Parameters
        ----------
        state : object or None
            The state.
        """
        if not self.used or state is None:
            return
        python_state, numpy_state, torch_state, cuda = state
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002
        torch.set_rng_state(torch_state)
        if cuda:
            torch.cuda.set_rng_state_all(cuda)

    @contextmanager
    def preserved(self) -> Iterator[None]:
        """Restore afterwards what code inside has drawn, such as a callback."""
        state = self.copy()
        yield
        self.restore(state)


@contextmanager
def plain_torch(*, own_net: bool = False, autocast: bool = False) -> Iterator[None]:
    """Run code as outside of all contexts of torch, then restore them.

    Gradients are on, and tensors are made on the CPU. Nets of this package also do not
    depend on the default dtype, on autocast, or, while no GPU is in use, on the
    precision of matrix products.

    Parameters
    ----------
    own_net : bool, default=False
        Whether the net is a user's own: it has the default dtype and the precision that
        the user has set.
    autocast : bool, default=False
        Whether autocast stays on, where it is.

    Examples
    --------
    >>> with torch.no_grad(), plain_torch():
    ...     torch.is_grad_enabled()
    True
    """
    dtype, precision = torch.get_default_dtype(), torch.get_float32_matmul_precision()
    ours = not own_net
    with ExitStack() as stack:
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        if torch.empty(0).device.type != "cpu":
            stack.enter_context(torch.device("cpu"))
        for kind in ("cpu", "cuda"):
            if not autocast and torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if ours and dtype is not torch.float32:
            stack.callback(torch.set_default_dtype, dtype)
            torch.set_default_dtype(torch.float32)
        if ours and precision != "highest" and not torch.cuda.is_initialized():
            stack.callback(torch.set_float32_matmul_precision, precision)
            torch.set_float32_matmul_precision("highest")
        yield


@contextmanager
def isolated_rng(seed: int) -> Iterator[None]:
    """Seed python's, numpy's and torch's global generators, then restore them.

    For modules that someone else wrote: their layers and callbacks draw from the
    global generators, and no parameter changes that.

    Parameters
    ----------
    seed : int
        In [0, 2**32).

    Examples
    --------
    >>> before = torch.random.get_rng_state()
    >>> with isolated_rng(0):
    ...     _ = torch.rand(3)
    >>> bool((before == torch.random.get_rng_state()).all())
    True
    """
    with _TURN, torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
        try:
            random.seed(seed)
            np.random.seed(seed)  # noqa: NPY002
            torch.manual_seed(seed)
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)  # noqa: NPY002
