import _thread
import asyncio
import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from skorch import NeuralNetClassifier
from skorch.callbacks import Callback
from torch import nn

from sklearn_sparse_nn import PrunedClassifier, TabularNetClassifier
from sklearn_sparse_nn.exceptions import DivergedTrainingError
from sklearn_sparse_nn.training.interruption import InterruptWatch
from sklearn_sparse_nn.training.run import TrainingRun


@pytest.fixture(autouse=True)
def handlers_are_put_back():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
    after = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert after == before


HOOKS = (
    "on_epoch_begin",
    "on_batch_begin",
    "on_grad_computed",
    "on_batch_end",
    "on_epoch_end",
)


class At(Callback):
    """Calls a function at a hook."""

    def __init__(self, hook, act):
        self.hook = hook
        self.act = act


def _calls_at(hook):
    def call(self, *args, **kwargs):
        if self.hook == hook:
            self.act()

    return call


for _hook in HOOKS:
    setattr(At, _hook, _calls_at(_hook))


class Net(nn.Linear):
    """A layer that calls a function in its forward or backward pass."""

    def __init__(self, forward=None, backward=None):
        super().__init__(8, 3)
        self.acts = forward, backward

    def forward(self, X):
        forward, backward = self.acts
        outputs = super().forward(X)
        if forward is not None:
            forward()
        if backward is not None and outputs.requires_grad:
            outputs.register_hook(lambda grad: backward())
        return outputs


def run_of(classes, *callbacks, **acts):
    net = NeuralNetClassifier(
        Net,
        criterion=nn.CrossEntropyLoss,
        callbacks=[(f"own_{i}", callback) for i, callback in enumerate(callbacks)],
        verbose=0,
        **{f"module__{key}": act for key, act in acts.items()},
    )
    return TrainingRun(net.initialize(), *classes)


def ctrl_c():
    signal.raise_signal(signal.SIGINT)


def stop():
    raise KeyboardInterrupt


def stop_deep_inside():
    def helper(n):
        return stop() if n == 0 else helper(n - 1)

    list(map(helper, [3]))


def stop_in_a_handler():
    try:
        raise ValueError("a bad score")
    except ValueError as error:
        raise KeyboardInterrupt from error


def stop_at_the_end_of_a_generator():
    def rows():
        yield 1
        stop()

    for _ in rows():
        pass


WISHES = (stop, stop_deep_inside, stop_in_a_handler, stop_at_the_end_of_a_generator)


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("wish", WISHES)
def test_a_callbacks_stop_is_no_error_however_it_is_raised(classes, hook, wish):
    assert run_of(classes, At(hook, wish)).epoch("dense") is False


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("interrupt", [ctrl_c, _thread.interrupt_main])
def test_a_signal_reaches_the_caller_from_any_callback(classes, hook, interrupt):
    run = run_of(classes, At(hook, interrupt))
    with pytest.raises(KeyboardInterrupt):
        run.epoch("dense")


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_a_signal_reaches_the_caller_from_inside_torch(classes, where):
    run = run_of(classes, **{where: ctrl_c})
    with pytest.raises(KeyboardInterrupt):
        run.epoch("dense")


def test_a_stop_counts_for_its_own_epoch_only(classes):
    acts = iter([stop, ctrl_c, stop, lambda: None])
    run = run_of(classes, At("on_epoch_end", lambda: next(acts)()))
    assert run.epoch("dense") is False
    with pytest.raises(KeyboardInterrupt):
        run.epoch("dense")
    assert run.epoch("dense") is False
    assert run.epoch("dense") is True


def test_a_signal_during_the_end_of_an_epoch_ends_it_at_once(classes):
    calls = []
    later = At("on_epoch_end", lambda: calls.append("later"))
    with pytest.raises(KeyboardInterrupt):
        run_of(classes, At("on_epoch_end", ctrl_c), later).epoch("dense")
    assert calls == []


def test_a_stop_raised_again_from_a_caught_ctrl_c_is_the_persons(classes):
    def saves_first():
        try:
            ctrl_c()
        except KeyboardInterrupt:
            raise KeyboardInterrupt from None

    with pytest.raises(KeyboardInterrupt):
        run_of(classes, At("on_epoch_end", saves_first)).epoch("dense")


def test_handlers_are_put_back_after_a_failure(classes):
    net = TabularNetClassifier((4,), lr=1e30, max_epochs=3)
    with pytest.raises(DivergedTrainingError):
        net.fit(*classes)  # the fixture looks at the handlers


@pytest.fixture
def handler(request):
    """A user's own handler of SIGINT and SIGTERM."""
    before = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        before[number] = signal.signal(number, request.param)
    yield request.param
    assert all(signal.getsignal(number) is request.param for number in before)
    for number, old in before.items():
        signal.signal(number, old)


class Calls(list):
    def __call__(self, number, frame):
        self.append(number)


@pytest.mark.parametrize("handler", [Calls()], indirect=True)
def test_a_handler_that_returns_leaves_the_stop_to_a_callback(classes, handler):
    def act():
        ctrl_c()
        stop()

    assert run_of(classes, At("on_epoch_end", act)).epoch("dense") is False
    assert handler == [signal.SIGINT]


def handler_that_raises(number, frame):
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    "handler", [handler_that_raises, signal.default_int_handler], indirect=True
)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_handler_that_raises_reaches_the_caller(classes, handler, number):
    act = At("on_batch_end", lambda: signal.raise_signal(number))
    with pytest.raises(KeyboardInterrupt):
        run_of(classes, act).epoch("dense")


@pytest.mark.parametrize("handler", [signal.SIG_IGN], indirect=True)
def test_ignored_signals_stay_ignored(classes, handler):
    assert run_of(classes, At("on_batch_end", ctrl_c)).epoch("dense") is True
    assert run_of(classes, At("on_batch_end", stop)).epoch("dense") is False


def test_a_handler_that_a_callback_installs_stays(classes):
    before = signal.getsignal(signal.SIGINT)
    own = Calls()
    run = run_of(
        classes, At("on_epoch_begin", lambda: signal.signal(signal.SIGINT, own))
    )
    try:
        assert run.epoch("dense") is True
        assert signal.getsignal(signal.SIGINT) is own
    finally:
        signal.signal(signal.SIGINT, before)


def test_fits_inside_fits_each_know_their_own_stop(classes):
    inner_stop = At("on_epoch_end", lambda: inner.append(run_inner(stop)))
    inner = []

    def run_inner(act):
        return run_of(classes, At("on_epoch_end", act)).epoch("dense")

    assert run_of(classes, inner_stop).epoch("dense") is True
    assert inner == [False]
    with pytest.raises(KeyboardInterrupt):
        run_of(classes, At("on_epoch_end", lambda: run_inner(ctrl_c))).epoch("dense")


def test_asyncio_inside_a_fit_and_a_fit_inside_asyncio(classes):
    async def waits():
        await asyncio.sleep(0)

    async def fits():
        run = run_of(classes, At("on_epoch_end", stop))
        assert run.epoch("dense") is False

    act = At("on_epoch_end", lambda: asyncio.run(waits()))
    assert run_of(classes, act).epoch("dense") is True
    asyncio.run(fits())


def test_in_another_thread_a_stop_is_a_callbacks_and_handlers_stay(classes):
    found = []
    handlers = []

    def act():
        handlers.append(signal.getsignal(signal.SIGINT))
        stop()

    def work():
        found.append(run_of(classes, At("on_epoch_end", act)).epoch("dense"))

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [False]
    assert handlers == [before]


def test_a_fit_in_a_thread_while_the_main_one_fits(classes):
    X, y = classes
    nets = []

    def work():
        nets.append(TabularNetClassifier((4,), max_epochs=20, random_state=0).fit(X, y))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    work()
    for thread in threads:
        thread.join()
    first, *others = [net.predict_proba(X) for net in nets]
    assert all(np.array_equal(first, other) for other in others)


@pytest.fixture
def trace_calls():
    """Sets a tracing function, and puts the one before (of coverage, say) back."""
    before = sys.gettrace()
    yield sys.settrace
    sys.settrace(before)


@pytest.mark.parametrize("handler", [handler_that_raises], indirect=True)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_at_any_line_of_the_context_leaves_no_handler(
    trace_calls, handler, number
):
    for n_lines in range(10**4):
        left = iter(range(n_lines))

        def trace(frame, event, arg, left=left):
            if next(left, None) is None:
                trace_calls(None)
                signal.raise_signal(number)
            return trace

        try:
            trace_calls(trace)
            with InterruptWatch():
                pass
            trace_calls(None)
        except KeyboardInterrupt:
            for each in (signal.SIGINT, signal.SIGTERM):
                assert signal.getsignal(each) is handler
        else:
            break
    assert n_lines > 50


def test_a_pruner_ends_a_phase_at_a_stop_and_a_fit_at_a_signal(classes):
    def pruner(act):
        net = NeuralNetClassifier(
            Net,
            criterion=nn.CrossEntropyLoss,
            callbacks=[At("on_epoch_end", act)],
            max_epochs=3,
            verbose=0,
        )
        return PrunedClassifier(net, sparsity=0.5, prune_epochs=2, n_steps=2)

    phases = [row["phase"] for row in pruner(stop).fit(*classes).history_]
    assert phases.count("dense") == 1
    with pytest.raises(KeyboardInterrupt):
        pruner(ctrl_c).fit(*classes)


SCRIPT = """
import os, signal, sys
import numpy as np
from sklearn_sparse_nn import TabularNetClassifier
from skorch.callbacks import Callback

class Says(Callback):
    def on_epoch_end(self, net, **kwargs):
        if len(net.history) == 2:
            print("training", flush=True)

X = np.random.default_rng(0).normal(size=(400, 8))
net = TabularNetClassifier((8,), max_epochs=10**7, callbacks=[("says", Says())])
try:
    net.fit(X, X[:, 0] > 0)
except KeyboardInterrupt:
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    print("interrupted", flush=True)
"""


@pytest.mark.skipif(os.name != "posix", reason="sends a signal to a process")
def test_a_signal_from_outside_ends_a_fit():
    running = subprocess.Popen(
        [sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, text=True
    )
    with running:
        assert running.stdout.readline() == "training\n"
        running.send_signal(signal.SIGINT)
        assert running.stdout.read() == "interrupted\n"
    assert running.returncode == 0
