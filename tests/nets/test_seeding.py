import pickle
import random
import threading

import numpy as np
import torch

from sklearn_sparse_nn.nets.seeding import isolated_rng


def draws():
    return random.random(), np.random.rand(), float(torch.rand(()))  # noqa: NPY002


def state():
    return (
        random.getstate(),
        pickle.dumps(np.random.get_state()),  # noqa: NPY002
        torch.random.get_rng_state().tolist(),
    )


def test_same_seed_same_draws():
    with isolated_rng(3):
        first = draws()
    with isolated_rng(3):
        second = draws()
    assert first == second


def test_global_state_is_given_back_after_an_error():
    before = state()
    try:
        with isolated_rng(0):
            draws()
            raise RuntimeError
    except RuntimeError:
        pass
    assert state() == before


def test_threads_take_turns():
    results = {}

    def work(name):
        with isolated_rng(1):
            results[name] = [draws() for _ in range(200)]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(result == results[0] for result in results.values())
