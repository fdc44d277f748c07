"""Another process, that has imported everything once and serves many tests."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from functools import cache

import torch

__all__ = ["run_elsewhere"]


@cache
def _pool():
    spawn = multiprocessing.get_context("spawn")
    one_thread = (torch.set_num_threads, (1,))
    return ProcessPoolExecutor(1, spawn, *one_thread)


def run_elsewhere(function, *args):
    """Call a function of a test file in another process; its hashes are salted anew.

    Parameters
    ----------
    function : callable
        A function of a module, and no lambda.
    *args
        What it is called with; these and its result are pickled.
    """
    return _pool().submit(function, *args).result()
