"""A randomised trial of whole fits: ``python -m fuzz.fits --draws 2000``.

Nets, callbacks, labels, rows and pruning methods are drawn; two dense epochs, two of
pruning and one of fine-tuning follow. A fit must end with zeros exactly where its masks
are, with `transform` equal to the weights, and with predictions of the pruner and of
the exported model equal to torch's, or with a refusal in our words that came before any
training. Everything else is a surprise, is printed, and makes the exit status 1.
"""

import argparse
import contextlib
import io
import random
import sys
import tempfile
import threading
import traceback
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy import sparse
from sklearn.frozen import FrozenEstimator
from skorch import NeuralNetBinaryClassifier, NeuralNetClassifier, NeuralNetRegressor
from skorch import callbacks as skorch_callbacks
from skorch.dataset import Dataset, ValidSplit
from skorch.helper import predefined_split
from torch import nn
from torch.optim import lr_scheduler
from torch.optim.lr_scheduler import OneCycleLR

from fuzz.nets import N_INPUTS, NETS
from sklearn_sparse_nn import (
    PrunedClassifier,
    PrunedRegressor,
    TabularNetClassifier,
    TabularNetRegressor,
)
from sklearn_sparse_nn.core.importance import IMPORTANCES
from sklearn_sparse_nn.exceptions import (
    DivergedTrainingError,
    UnsupportedLayerError,
)

PACKAGE = str(Path(__file__).parents[1] / "sklearn_sparse_nn")
N_ROWS = 60
PARTS = {
    "importance": [*sorted(IMPORTANCES)],
    "granularity": ["unstructured"] * 4 + ["neuron", "input", "block:2x2", "2:4"],
    "allocation": ["auto", "auto", "global", "uniform", "erk", "lamp"],
    "schedule": ["cubic", "linear", "oneshot", "cubic"],
    "penalty": [None] * 6 + ["l1", "l0"],
    "regrow": [None] * 6 + ["random", "gradient"],
    "rewind": [None] * 6 + ["weights", "learning_rate"],
    "distill": [0.0] * 6 + [0.5],
    "n_steps": [1, 2, 3],
    "sparsity": [0.5, 0.7, 0.8, np.float32(0.6), 40],
}


class Epochs(skorch_callbacks.Callback):
    """Counts epochs, to know whether training had begun."""

    n = 0

    def on_epoch_end(self, net, **kwargs):
        """See skorch."""
        type(self).n += 1


class Lists(skorch_callbacks.Callback):
    """Makes a list of its own, and asks the net for its parameters."""

    def __init__(self):
        self.losses = []

    def on_epoch_end(self, net, **kwargs):
        """See skorch."""
        net.get_params()
        self.losses.append(net.history[-1, "train_loss"])


class Locks(skorch_callbacks.Callback):
    """Holds a lock."""

    def initialize(self):
        """See skorch."""
        self.lock_ = threading.Lock()
        return self


class Replaces(skorch_callbacks.Callback):
    """Replaces the module when training begins."""

    def on_train_begin(self, net, **kwargs):
        """See skorch."""
        net.initialize_module()
        net.initialize_optimizer()


def callbacks_of(draw, folder):
    """Draw callbacks of skorch, with their parameters, and a user's own."""
    made = {
        "stop": lambda: skorch_callbacks.EarlyStopping(
            monitor="train_loss", patience=draw([1, 2]), load_best=draw([False, True])
        ),
        "save": lambda: skorch_callbacks.Checkpoint(
            dirname=folder, monitor="train_loss_best", load_best=draw([False, True])
        ),
        "rate": lambda: skorch_callbacks.LRScheduler(
            **draw(
                [
                    {"policy": lr_scheduler.StepLR, "step_size": 2},
                    {"policy": "ReduceLROnPlateau", "monitor": "train_loss"},
                    {"policy": lr_scheduler.CosineAnnealingLR, "T_max": 5},
                    {"policy": "WarmRestartLR"},
                    {"policy": OneCycleLR, "max_lr": 0.1, "total_steps": 5},
                    {"policy": OneCycleLR, "max_lr": 0.1, "total_steps": 2},
                ]
            )
        ),
        "clip": lambda: skorch_callbacks.GradientNormClipping(1.0),
        "bar": lambda: skorch_callbacks.ProgressBar(),
        "shape": lambda: skorch_callbacks.InputShapeSetter(),
        "freeze": lambda: skorch_callbacks.Freezer("first*"),
        "init": lambda: skorch_callbacks.Initializer("last.bias", nn.init.zeros_),
        "lists": Lists,
        "locks": Locks,
        "replaces": Replaces,
    }
    names = draw.some(list(made))
    if "shape" in names and draw.net != "wide":
        names.remove("shape")
    if draw.net == "wide" and "shape" not in names:
        names.append("shape")
    return [(name, made[name]()) for name in names]


class Draw:
    """Draws one of some values, by a seed."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)
        self.net = ""
        self.log = {}

    def __call__(self, values):
        """Draw one of the values."""
        return values[self.rng.integers(len(values))]

    def some(self, values):
        """Draw none to three of the values."""
        n = self.rng.choice([0, 0, 1, 1, 2, 3])
        return [values[i] for i in self.rng.permutation(len(values))[:n]]

    def named(self, name, values):
        """Draw one of the values, and note it."""
        self.log[name] = self(values)
        return self.log[name]


def rows_of(draw):
    """Draw rows: their kind, and where they lie."""
    X = draw.rng.normal(size=(N_ROWS, N_INPUTS))
    kind = draw.named(
        "X",
        ["float32", "float64", "int", "F", "reversed", "big-endian", "frame", "csr",
         "read-only", "strided", "bool"],
    )  # fmt: skip
    if draw.net == "embedded":
        X = draw.rng.integers(0, 5, X.shape).astype(float)
    if kind in ("int", "bool"):
        X = (np.abs(X) * 2).astype(int) if kind == "int" else X > 0
    elif kind == "F":
        X = np.asfortranarray(X, dtype=np.float32)
    elif kind == "reversed":
        X = X.astype(np.float32)[::-1, ::-1]
    elif kind == "big-endian":
        X = X.astype(">f4")
    elif kind == "frame":
        X = pd.DataFrame(X, columns=[f"c{i}" for i in range(N_INPUTS)])
    elif kind == "csr":
        X = sparse.csr_array(X.astype(np.float32))
    elif kind == "strided":
        X = np.repeat(X, 2, axis=1)[:, ::2]
    elif kind != "float64":
        X = X.astype(np.float32)
    if kind == "read-only":
        X.setflags(write=False)
    return X


def targets_of(draw, X):
    """Draw targets that the rows tell something of."""
    dense = X.toarray() if sparse.issparse(X) else np.asarray(X, dtype=float)
    value = dense[:, 0] + dense[:, 1] + 0.1 * draw.rng.normal(size=len(dense))
    task = draw.named("task", ["classes", "classes", "binary", "values"])
    if task == "values":
        kind = draw.named("y", ["f8", "f4", "i8", "list"])
        return value.tolist() if kind == "list" else (value * 5).astype(kind)
    n = 2 if task == "binary" else 3
    codes = np.argsort(np.argsort(value)) * n // len(value)
    kind = draw.named("y", ["int", "string", "signed", "object", "float", "bool"])
    labels = {
        "string": np.array(["one", "three", "two"]),
        "signed": np.array([-1, 1, 5]),
        "object": np.array(["a", "b", "c"], dtype=object),
        "float": np.array([0.0, 1.0, 2.0]),
        "bool": np.array([False, True, True]),
    }.get(kind, np.arange(3))
    if kind == "bool" and n == 3:
        labels = np.arange(3)
    return labels[codes]


def split_of(draw, X, y):
    """Draw a division into training and validation rows."""
    kind = draw.named("split", [None, None, "cv", "given"])
    if kind == "cv":
        return ValidSplit(4)
    if kind == "given":
        rows = X.toarray() if sparse.issparse(X) else np.asarray(X)
        return predefined_split(Dataset(rows[:20], np.asarray(y)[:20]))
    return None


def estimator_of(draw, X, y, folder):
    """Draw a pruner around a net of some kind."""
    kind = draw.named("net", ["ours", *NETS])
    draw.net = kind
    values = draw.log["task"] == "values"
    callbacks = [*callbacks_of(draw, folder), ("epochs", Epochs())]
    draw.log["callbacks"] = [
        f"{name}:{getattr(callback, 'policy', '')}" for name, callback in callbacks
    ]
    Epochs.n = 0
    if kind == "ours":
        make = TabularNetRegressor if values else TabularNetClassifier
        return make(
            (12, 8), max_epochs=2, callbacks=callbacks, lr=0.01,
            activation=draw.named("activation", ["relu", "gelu", "tanh"]),
            norm=draw.named("norm", [None, "batch", "layer"]),
        )  # fmt: skip
    module, options = NETS[kind]
    options = {name: draw.named(name, given) for name, given in options.items()}
    optimizer = draw.named("optimizer", [torch.optim.SGD, torch.optim.AdamW])
    common = {
        "lr": 0.01,
        "max_epochs": 2,
        "verbose": 0,
        "optimizer": optimizer,
        "callbacks": callbacks,
        "train_split": split_of(draw, X, y),
        "batch_size": draw.named("batch", [16, 128]),
        **{f"module__{name}": value for name, value in options.items()},
    }
    if values:
        return NeuralNetRegressor(module, module__n_outputs=1, **common)
    if draw.log["task"] == "binary" and draw.named("one output", [False, True]):
        return Single(module, module__n_outputs=1, **common)
    n_outputs = 2 if draw.log["task"] == "binary" else 3
    return NeuralNetClassifier(
        module, module__n_outputs=n_outputs, criterion=nn.CrossEntropyLoss, **common
    )


class Single(NeuralNetBinaryClassifier):
    """A binary classifier whose module gives a column."""

    def infer(self, x, **params):
        """Return one value for a row."""
        return super().infer(x, **params).squeeze(-1)


def pruner_of(draw, estimator):
    """Draw a method; most of its parts stay at their defaults."""
    parts = {}
    for name in [*draw.some(list(PARTS)), "sparsity"]:
        parts[name] = draw.named(name, PARTS[name])
    make = PrunedRegressor if draw.log["task"] == "values" else PrunedClassifier
    return make(
        estimator, prune_epochs=2, finetune_epochs=1, random_state=0,
        **{"n_steps": 2, **parts},
    )  # fmt: skip


def is_refusal(error):
    """Check that an error is raised by our own code, or by scikit-learn's checks."""
    if not isinstance(error, (ValueError, TypeError, AttributeError, RuntimeError)):
        return False
    places = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    ours = [i for i, place in enumerate(places) if place.startswith(PACKAGE)]
    last = places[ours[-1] + 1 :] if ours else places
    return bool(ours) and all("/sklearn/" in place for place in last)


def faults_of(pruner, X):
    """List what is wrong with a fitted pruner."""
    found = []
    layers = dict(pruner.net_.module_.named_modules())
    given = pruner.transform()
    for name, mask in pruner.masks_.items():
        module = layers[name]
        weight = module.weight.detach().numpy()
        if weight.shape != mask.shape or not np.array_equal(weight != 0, mask):
            found.append(f"zeros of {name} are not its mask")
        turned = weight
        if isinstance(module, (nn.Embedding, nn.ConvTranspose1d)):
            turned = weight.swapaxes(0, 1)
        flat = turned.reshape(len(turned), -1)
        if not np.array_equal(given[name].toarray(), flat):
            found.append(f"transform() of {name} is not its weight")
    sizes = sum(mask.size for mask in pruner.masks_.values())
    zeros = sum(int((~mask).sum()) for mask in pruner.masks_.values())
    if abs(pruner.sparsity_ - zeros / sizes) > 1e-12:
        found.append(f"sparsity_ is {pruner.sparsity_} and {zeros / sizes} are zero")
    return found + differences(pruner, X)


def differences(pruner, X):
    """List where predictions differ from those of the net in torch."""
    found = []
    proba = hasattr(pruner, "predict_proba")
    rows = pruner._rows(X)
    rows = rows.toarray() if sparse.issparse(rows) else np.asarray(rows)
    own = rows.dtype if pruner._own_dtype is None else pruner._own_dtype
    module = pruner.net_.module_.eval()
    with torch.no_grad():
        outputs = pruner.net_.infer(torch.from_numpy(np.array(rows, dtype=own)))
    outputs = outputs.numpy().astype(float)
    if proba and outputs.ndim == 1:
        one = 1 / (1 + np.exp(-outputs))
        expected = np.stack([1 - one, one], axis=1)
    elif proba:
        shifted = np.exp(outputs - outputs.max(axis=1, keepdims=True))
        expected = shifted / shifted.sum(axis=1, keepdims=True)
    else:
        expected = pruner.targets_.decode(outputs.reshape(-1))
    got = pruner.predict_proba(X) if proba else pruner.predict(X)
    scale = 1e-4 * max(1.0, np.abs(expected).max())
    if np.abs(got - expected).max() > scale:
        found.append(f"predictions are off torch's by {np.abs(got - expected).max()}")
    try:
        model = pruner.export()
    except UnsupportedLayerError:
        return found
    got = model.predict_proba(X) if proba else model.predict(X)
    if np.abs(got - expected).max() > scale:
        found.append(f"the model is off torch by {np.abs(got - expected).max()}")
    assert not module.training
    return found


def states():
    """Return the states of the global generators."""
    legacy = np.random.get_state()[1].tobytes()  # noqa: NPY002
    return legacy, torch.random.get_rng_state().numpy().tobytes(), random.getstate()


def plain_data(draw, estimator, X, y):
    """Convert data to what a net takes by itself; return targets for a pruner, too."""
    if draw.net == "ours":
        return X, y, y
    rows = np.asarray(X.toarray() if sparse.issparse(X) else X)
    rows = rows.astype(np.int64 if draw.net == "embedded" else np.float32)
    if draw.log["task"] == "values":
        return rows, np.asarray(y, dtype=np.float32).reshape(-1, 1), y
    codes = np.unique(y, return_inverse=True)[1].astype(np.int64)
    one = isinstance(estimator, Single)
    return rows, codes.astype(np.float32) if one else codes, codes


def trial(seed):
    """Fit one draw; return what became of it, the draw, and its faults."""
    draw = Draw(seed)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder, quiet():
        X = rows_of(draw)
        y = targets_of(draw, X)
        estimator = estimator_of(draw, X, y, folder)
        if draw.net == "embedded":
            X = draw.rng.integers(0, 5, (N_ROWS, N_INPUTS))
        frozen = draw.named("frozen", [False] * 5 + [True])
        if frozen:
            try:
                X_fit, y_fit, y = plain_data(draw, estimator, X, y)
                estimator.fit(X_fit, y_fit)
            except Exception:  # the plain net does not fit either
                return "plain net fails", draw, []
            estimator = FrozenEstimator(estimator)
        Epochs.n = 0
        pruner = pruner_of(draw, estimator)
        before = states()
        try:
            pruner.fit(X, y)
        except DivergedTrainingError:
            return "diverged", draw, []
        except Exception as error:
            if Epochs.n == 0 and is_refusal(error):
                return f"refused: {str(error)[:60]}", draw, []
            said = "".join(traceback.format_exception(error)[-6:])
            return "surprise", draw, [f"after {Epochs.n} epochs: {said}"]
        faults = faults_of(pruner, X)
        if states() != before:
            faults.append("global generators were moved")
    return ("surprise" if faults else "fitted"), draw, faults


@contextlib.contextmanager
def quiet():
    """Silence warnings and progress bars."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        with contextlib.redirect_stderr(io.StringIO()):
            yield


def main():
    """Run the trial, and print what it came to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    args = parser.parse_args()
    torch.set_num_threads(1)
    ends, n_surprises = Counter(), 0
    for seed in range(args.first, args.first + args.draws):
        end, draw, faults = trial(seed)
        ends[end] += 1
        if faults:
            n_surprises += 1
            print(f"seed {seed}: {draw.log}", *faults, sep="\n    ", flush=True)
    for end, n in ends.most_common():
        print(f"{n:6} {end}")
    print(f"{n_surprises} surprises in {args.draws} draws")
    return min(n_surprises, 1)


if __name__ == "__main__":
    sys.exit(main())
