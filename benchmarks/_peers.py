"""What is timed against the sparse runtime.

A peer is a class that is made for one net and a number of threads, and given the rows
of one batch size after another. Every peer gets numpy rows and gives back numpy rows:
what it needs in between is part of its time. Where a library offers several ways, the
one that was faster here is taken.
"""

import functools
import time
import warnings

import numpy as np
from scipy import special


class Peer:
    """A contender; `bind` prepares a batch, `call` is what is timed."""

    package = None  # what must be installed
    tolerance = 1e-4  # largest error allowed, as a share of the largest exact output
    proba = False  # whether it gives probabilities instead of raw outputs
    equal_work = True  # False: another model, shown for orientation only
    max_batch = None

    def __init__(self, net, threads):
        self.net, self.threads = net, threads

    def bind(self, X):
        self.X = X

    def call(self):
        raise NotImplementedError

    def output(self):
        return np.asarray(self.call())

    def time(self, calls):
        """Give wall and CPU seconds of so many calls, after one that is not timed."""
        call = self.call
        call()
        cpu, begin = time.process_time(), time.perf_counter()
        for _ in range(calls):
            call()
        wall = time.perf_counter() - begin
        return wall, time.process_time() - cpu

    def error(self, exact):
        """Give the largest error of the bound batch, as a share of the largest."""
        if not self.equal_work:
            return 0.0
        out = self.output()
        if self.proba:
            exact = special.softmax(exact, axis=1)
        if out.shape != exact.shape:
            return np.inf
        return float(np.abs(out - exact).max() / np.abs(exact).max())

    def close(self):
        pass


class Ours(Peer):
    """SparseModel.forward."""

    package = "sklearn-sparse-nn"

    def __init__(self, net, threads):
        super().__init__(net, threads)
        self.model = sparse_model(net).with_threads(threads)

    def call(self):
        return self.model.forward(self.X)


class OursProba(Ours):
    """SparseModel.predict_proba of single rows, everything included."""

    max_batch = 1
    proba = True

    def call(self):
        return self.model.predict_proba(self.X)


class OursOneThread(Ours):
    """The same with one thread, for the turns with two."""

    def __init__(self, net, threads):
        super().__init__(net, 1)


def sparse_model(net):
    from sklearn_sparse_nn.runtime import SparseModel
    from sklearn_sparse_nn.runtime.graph import Activation, Graph, InputStage, Linear

    last = len(net.weights) - 1
    layers = tuple(
        Linear(i, weight, bias, Activation("identity" if i == last else "relu"))
        for i, (weight, bias) in enumerate(zip(net.weights, net.biases, strict=True))
    )
    graph = Graph(InputStage(net.widths[0]), layers)
    return SparseModel(graph, output="softmax", classes=np.arange(net.widths[-1]))


class TorchDense(Peer):
    """torch.nn.Sequential in inference mode."""

    package = "torch"

    def __init__(self, net, threads):
        import torch

        super().__init__(net, threads)
        self.torch = torch
        layers = []
        for weight, bias in zip(net.dense, net.biases, strict=True):
            linear = torch.nn.Linear(*weight.shape[::-1])
            linear.weight.data = torch.from_numpy(weight)
            linear.bias.data = torch.from_numpy(bias)
            layers += [linear, torch.nn.ReLU()]
        self.module = torch.nn.Sequential(*layers[:-1]).eval()

    def call(self):
        with self.torch.inference_mode():
            return self.module(self.torch.from_numpy(self.X)).numpy()


class TorchBfloat16(TorchDense):
    """The same in bfloat16; rows are converted in the call."""

    tolerance = 5e-2  # eight bits of mantissa through up to four layers

    def __init__(self, net, threads):
        super().__init__(net, threads)
        self.module.to(self.torch.bfloat16)

    def call(self):
        torch = self.torch
        with torch.inference_mode():
            rows = torch.from_numpy(self.X).to(torch.bfloat16)
            return self.module(rows).float().numpy()


class TorchCSR(Peer):
    """torch.sparse_csr, which is MKL's, feature-major (five times the speed)."""

    package = "torch"

    def __init__(self, net, threads):
        import torch

        super().__init__(net, threads)
        self.torch = torch
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support")
        weights = [torch.from_numpy(w).to_sparse_csr() for w in net.dense]
        self.layers = list(zip(weights, map(torch.from_numpy, net.biases), strict=True))

    def call(self):
        torch = self.torch
        last = len(self.layers) - 1
        one = len(self.X) == 1  # its product with a vector is twice as fast
        with torch.inference_mode():
            rows = torch.from_numpy(self.X)
            h = rows[0] if one else rows.T.contiguous()
            for i, (weight, bias) in enumerate(self.layers):
                h = (
                    (weight @ h).add_(bias)
                    if one
                    else torch.addmm(bias[:, None], weight, h)
                )
                if i < last:
                    h.relu_()
            return (h[None] if one else h.T.contiguous()).numpy()


class Scipy(Peer):
    """scipy.sparse csr_array products, feature-major."""

    package = "scipy"

    def call(self):
        net, last = self.net, len(self.net.weights) - 1
        one = len(self.X) == 1
        h = self.X[0] if one else np.ascontiguousarray(self.X.T)
        for i, (weight, bias) in enumerate(zip(net.weights, net.biases, strict=True)):
            h = weight @ h
            h += bias if one else bias[:, None]
            if i < last:
                np.maximum(h, 0, out=h)
        return h[None] if one else np.ascontiguousarray(h.T)


class SklearnMLP(Peer):
    """MLPClassifier.predict_proba, with the net's weights put in."""

    package = "scikit-learn"
    proba = True

    def __init__(self, net, threads):
        from sklearn.neural_network import MLPClassifier

        super().__init__(net, threads)
        n_classes = net.widths[-1]
        y = np.arange(2 * n_classes) % n_classes
        X = np.random.default_rng(0).random((len(y), net.widths[0]), dtype=np.float32)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # one iteration has not converged
            self.model = MLPClassifier(net.widths[1:-1], max_iter=1).fit(X, y)
        self.model.coefs_ = [np.ascontiguousarray(w.T) for w in net.dense]
        self.model.intercepts_ = list(net.biases)

    def call(self):
        return self.model.predict_proba(self.X)


class LightGBM(Peer):
    """Single rows through 100 trees of 31 leaves: not the same work."""

    package = "lightgbm"
    equal_work = False
    max_batch = 1

    def __init__(self, net, threads):
        super().__init__(net, threads)
        self.model = self.trained(net.widths[0])

    @staticmethod
    @functools.cache  # the net's weights do not matter, only how wide its rows are
    def trained(n_features):
        import lightgbm

        rng = np.random.default_rng(0)
        X = rng.standard_normal((5000, n_features))
        y = X[:, 0] * X[:, 1] + X[:, 2] + rng.standard_normal(len(X)) > 0
        options = {"objective": "binary", "num_leaves": 31, "verbose": -1}
        return lightgbm.train(options, lightgbm.Dataset(X, y), 100)

    def call(self):
        return self.model.predict(self.X, num_threads=self.threads)
