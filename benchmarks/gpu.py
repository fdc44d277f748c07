"""Time sparse nets on a GPU against the dense net in torch, side by side in one run.

Peers are the whole net as a torch module in float32, TF32 and bfloat16, called as it is
and from a CUDA graph; ours is ``SparseModel.to("cuda")``, tuned for the batch size, in
the same three precisions. Rows and outputs are tensors on the GPU. Outputs are compared
with a product in float64 before anything is timed; all take turns, round after round,
and medians count. Structured nets lack whole neurons, which are gone from ours, as
export leaves them, and zeros in the peers'. Run with::

    python benchmarks/gpu.py [--quick] [--nets mid] [--batches 1 64] [--write]

``--write`` puts the tables into docs/gpu.md. ``--device cpu --quick`` runs the script
itself where there is no GPU; its figures mean nothing and are never written.
"""

import argparse
import statistics
import sys
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from _nets import WIDTHS, exact_outputs, make_net
from _peers import sparse_model
from _report import figure, table
from scipy import sparse

from sklearn_sparse_nn.runtime.cuda.capture import Capture, Stream
from sklearn_sparse_nn.runtime.cuda.model import CudaModel
from sklearn_sparse_nn.runtime.cuda.products import float32_products

DOC = Path(__file__).parent.parent / "docs" / "gpu.md"
BEGIN, END = "<!-- figures begin -->", "<!-- figures end -->"
SPARSITIES = (0.8, 0.9, 0.95, 0.98, 0.99)
BATCHES = (1, 8, 64, 512, 4096, 16384, 65536)
PRECISIONS = {"float32": "f32", "tf32": "TF32", "bf16": "bf16"}
TOLERANCE = {"float32": 1e-4, "tf32": 1e-2, "bf16": 5e-2}
KINDS = ("unstructured", "structured")


def kept_share(widths, sparsity):
    """Give the share of hidden neurons that leaves so many weights, by bisection."""

    def left(share):
        n = [widths[0], *(max(1, round(share * w)) for w in widths[1:-1]), widths[-1]]
        return sum(a * b for a, b in pairwise(n))

    total = sum(a * b for a, b in pairwise(widths))
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (
            (middle, high) if left(middle) < (1 - sparsity) * total else (low, middle)
        )
    return high


def structured(name, sparsity, n_rows):
    """Make a dense net whose neurons are partly zero; give it, and what is left."""
    whole = make_net(name, 0.0, n_rows)
    rng = np.random.default_rng(round(1e6 * sparsity))
    share = kept_share(whole.widths, sparsity)
    living = [np.arange(whole.widths[0])]
    for width in whole.widths[1:-1]:
        kept = max(1, round(share * width))
        living.append(np.sort(rng.choice(width, kept, replace=False)))
    living.append(np.arange(whole.widths[-1]))
    pairs = pairwise(living)
    masked, cut, masked_biases, cut_biases = [], [], [], []
    layers = zip(whole.dense, whole.biases, pairs, strict=True)
    for weight, bias, (before, after) in layers:
        # He's scale for what is left, as in make_net.
        part = weight[np.ix_(after, before)] * np.sqrt(weight.shape[1] / len(before))
        zeros = np.zeros_like(weight)
        zeros[np.ix_(after, before)] = part
        masked.append(sparse.csr_array(zeros))
        cut.append(sparse.csr_array(part.astype(np.float32)))
        zero_bias = np.zeros_like(bias)
        zero_bias[after] = bias[after]
        masked_biases.append(zero_bias)
        cut_biases.append(bias[after])
    peers = replace(whole, weights=tuple(masked), biases=tuple(masked_biases))
    return peers, replace(whole, weights=tuple(cut), biases=tuple(cut_biases))


def module_of(net, device, dtype):
    layers = []
    for weight, bias in zip(net.dense, net.biases, strict=True):
        linear = torch.nn.Linear(*weight.shape[::-1])
        linear.weight.data = torch.from_numpy(weight)
        linear.bias.data = torch.from_numpy(bias)
        layers += [linear, torch.nn.ReLU()]
    return torch.nn.Sequential(*layers[:-1]).eval().to(device, dtype)


def dense_peers(net, X, stream):
    """Give calls of the dense module: name -> function that gives outputs."""
    peers = {}
    for precision, word in PRECISIONS.items():
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        module = module_of(net, X.device, dtype)

        def call(module=module, dtype=dtype, tf32=precision == "tf32"):
            with torch.inference_mode(), float32_products(tf32=tf32):
                return module(X.to(dtype)).float()

        peers[f"dense {word}"] = call
        if stream.is_cuda:
            with stream:
                peers[f"dense {word}, graph"] = Capture(call, stream).replay
    return peers


def our_peers(model, X):
    """Give calls of ours, tuned, and what was chosen for the layers."""
    peers, choices = {}, {}
    for precision, word in PRECISIONS.items():
        ours = CudaModel(model.graph, model.head, X.device, precision, host=model).tune(
            X
        )
        peers[f"ours {word}"] = lambda ours=ours: ours.forward(X)
        (found,) = ours.tuned_.values()
        choices[word] = [layer["choice"] for layer in found]
    return peers, choices


def error_of(out, exact):
    """Give the largest error as a share of the largest output."""
    out = out.double().cpu().numpy()
    return float(np.abs(out - exact).max() / np.abs(exact).max())


def check(peers, exact, where):
    words = {word: precision for precision, word in PRECISIONS.items()}
    for name, call in peers.items():
        error = error_of(call(), exact)
        if not error <= TOLERANCE[words[name.replace(",", "").split()[1]]]:
            sys.exit(f"{name} is wrong by {error:.1e} of the largest output ({where}).")


def seconds(call, calls, device):
    if device.type != "cuda":
        begin = time.perf_counter()
        for _ in range(calls):
            call()
        return (time.perf_counter() - begin) / calls
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(calls):
        call()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3 / calls


def medians(peers, device, args):
    """Time all in turns; give microseconds of one batch."""
    calls = {}
    for name, call in peers.items():
        for _ in range(3):
            call()
        calls[name] = max(1, int(args.budget / max(seconds(call, 1, device), 1e-7)))
    times = {name: [] for name in peers}
    rng = np.random.default_rng(0)
    for _ in range(args.rounds):
        for name in rng.permutation(list(peers)):
            times[name].append(1e6 * seconds(peers[name], calls[name], device))
    return {name: statistics.median(taken) for name, taken in times.items()}


def cells(name, kind, args, device):
    """Give one record for every sparsity and batch size."""
    for sparsity in args.sparsities:
        if kind == "structured":
            net, ours = structured(name, sparsity, max(args.batches))
        else:
            net = ours = make_net(name, sparsity, max(args.batches))
        model, exact = sparse_model(ours), exact_outputs(net)
        for batch in args.batches:
            stream = Stream(device)
            X = torch.from_numpy(net.X[:batch]).to(device)
            found, choices = our_peers(model, X)
            peers = {**dense_peers(net, X, stream), **found}
            where = f"{name}, {kind}, {sparsity:.0%} zeros, batch {batch}"
            check(peers, exact[:batch], where)
            us = medians(peers, device, args)
            print(where, {k: figure(v) for k, v in us.items()}, choices, flush=True)
            yield {"sparsity": sparsity, "batch": batch, "us": us, "choices": choices}


def figures(name, kind, found):
    """Lay out one net's table."""
    names = list(found[0]["us"])
    words = list(PRECISIONS.values())
    head = ["zeros", "batch", *names, *(f"{w}: dense / ours" for w in words)]
    rows = [[*head, "chosen for f32, TF32, bf16"]]
    for cell in found:
        us = cell["us"]
        row = [f"{cell['sparsity']:.0%}", cell["batch"]]
        row += [figure(us[n]) for n in names]
        for word in words:
            dense = min(us[n] for n in names if n.startswith(f"dense {word}"))
            row.append(f"{dense / us[f'ours {word}']:.2f}")
        rows.append([*row, "; ".join(", ".join(c) for c in cell["choices"].values())])
    widths = "-".join(map(str, WIDTHS[name]))
    return f"### {name} ({widths}), {kind}\n\n{table(rows)}\n"


def text_of(tables, device, args):
    """Write what stands between the markers."""
    has = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    return (
        f"Microseconds for one batch, medians of {args.rounds} rounds in which all "
        f"take turns, tensors on the device in and out; {has}, torch "
        f"{torch.__version__}, CUDA {torch.version.cuda}. `dense / ours` divides "
        "the faster of the dense nets of that precision, with or without a graph, by "
        "ours.\n\n" + "".join(tables)
    )


def write(text):
    page = DOC.read_text()
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    DOC.write_text(f"{before}{BEGIN}\n\n{text.strip()}\n\n{END}{after}")


def parsed():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--nets", nargs="+", choices=WIDTHS, default=["mid", "wide"])
    add("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    add("--sparsities", nargs="+", type=float)
    add("--batches", nargs="+", type=int)
    add("--rounds", type=int)
    add("--device", default="cuda")
    add("--quick", action="store_true", help="a look, not a measurement")
    add("--write", action="store_true", help="put the tables into docs/gpu.md")
    args = parser.parse_args()
    quick = args.quick
    args.sparsities = args.sparsities or ([0.9] if quick else list(SPARSITIES))
    args.batches = args.batches or ([1, 64] if quick else list(BATCHES))
    args.rounds = args.rounds or (3 if quick else 15)
    args.budget = 1e-3 if quick else 5e-3
    return args


def main():
    args = parsed()
    device = torch.device(args.device)
    if device.type == "cuda":
        if not torch.cuda.is_available():
            sys.exit(
                "benchmarks/gpu.py needs a CUDA GPU and a torch build with CUDA; torch "
                f"{torch.__version__} here has none. --device cpu --quick tries the "
                "script itself."
            )
        device = torch.device("cuda", device.index or 0)
        torch.cuda.set_device(device)
    elif args.write:
        sys.exit("Figures of a CPU do not belong into docs/gpu.md: leave out --write.")
    tables = [
        figures(name, kind, list(cells(name, kind, args, device)))
        for name in args.nets
        for kind in args.kinds
    ]
    text = text_of(tables, device, args)
    print(text)
    if args.write:
        write(text)


if __name__ == "__main__":
    main()
