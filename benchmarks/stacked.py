"""Measure whether it is faster to train the nets of all folds as one batched net.

The nets of a path's folds have the same shapes. Trained one after the other, every
layer is one matrix product a step; stacked, it is a batch of products (``baddbmm``) and
the optimizer has one large tensor in place of many small ones. Both are written as bare
torch loops around the same AdamW, from the same weights over the same batches, and are
timed in turns. On a CPU also as many processes of one thread each, that share the nets:
what ``n_jobs`` does. Run with::

    python benchmarks/stacked.py [--rounds 5] [--device cuda] [--write]
"""

import argparse
import multiprocessing
import statistics
import time
from itertools import pairwise
from pathlib import Path

import torch
from torch.nn import functional

HERE = Path(__file__).parent
N_NETS = 5
WIDTHS = (256, 256, 256)
CASES = ((1000, 16), (2000, 31), (10_000, 156), (20_000, 256))


def make(n_inputs, n_outputs, device):
    """Give weights and biases of all nets, stacked."""
    generator = torch.Generator().manual_seed(0)
    sizes = (n_inputs, *WIDTHS, n_outputs)
    layers = []
    for n_in, n_out in pairwise(sizes):
        weight = torch.rand(N_NETS, n_out, n_in, generator=generator) * 2 - 1
        bias = torch.rand(N_NETS, n_out, generator=generator) * 2 - 1
        layers += [weight * n_in**-0.5, bias * n_in**-0.5]
    return [part.to(device) for part in layers]


def optimizer_of(params):
    return torch.optim.AdamW(params, lr=1e-3, weight_decay=1e-4, fused=True)


def epoch_apart(nets, X, y, orders, batch_size):
    """Train one net after the other."""
    for net, optimizer, order in zip(*nets, orders, strict=True):
        for start in range(0, order.shape[0], batch_size):
            rows = order[start : start + batch_size]
            hidden = X[rows]
            for i in range(0, len(net), 2):
                hidden = functional.linear(hidden, net[i], net[i + 1])
                if i < len(net) - 2:
                    hidden = torch.relu(hidden)
            loss = functional.cross_entropy(hidden, y[rows])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()


def epoch_stacked(stack, X, y, orders, batch_size):
    """Train all nets at once."""
    net, optimizer = stack
    for start in range(0, orders.shape[1], batch_size):
        rows = orders[:, start : start + batch_size]
        hidden = X[rows]
        for i in range(0, len(net), 2):
            hidden = torch.baddbmm(net[i + 1][:, None], hidden, net[i].mT)
            if i < len(net) - 2:
                hidden = torch.relu(hidden)
        # The sum of the nets' own means: no net's gradient knows of the others.
        loss = functional.cross_entropy(
            hidden.flatten(0, 1), y[rows].flatten(), reduction="sum"
        )
        optimizer.zero_grad(set_to_none=True)
        (loss / rows.shape[1]).backward()
        optimizer.step()


def rows_of(n_rows, device):
    generator = torch.Generator().manual_seed(1)
    X = torch.randn(n_rows, 50, generator=generator).to(device)
    y = torch.randint(2, (n_rows,), generator=generator).to(device)
    return X, y, generator


def nets_of(numbers, device):
    parts = make(50, 2, device)
    nets = [[part[k].clone().requires_grad_() for part in parts] for k in numbers]
    return nets, [optimizer_of(net) for net in nets]


def orders_of(n_rows, generator, device):
    orders = [torch.randperm(n_rows, generator=generator) for _ in range(N_NETS)]
    return torch.stack(orders).to(device)


def worker(numbers, n_rows, batch_size, rounds, barrier):
    """Train some of the nets, when all others do."""
    torch.set_num_threads(1)
    X, y, generator = rows_of(n_rows, "cpu")
    nets = nets_of(numbers, "cpu")
    for _ in range(rounds):
        orders = orders_of(n_rows, generator, "cpu")[numbers]
        barrier.wait()
        epoch_apart(nets, X, y, orders, batch_size)
        barrier.wait()


def measure_workers(n_rows, batch_size, n_workers, rounds):
    """Time epochs of all nets in processes of one thread each."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(n_workers + 1)
    shares = [list(range(k, N_NETS, n_workers)) for k in range(n_workers)]
    processes = [
        context.Process(
            target=worker, args=(share, n_rows, batch_size, rounds + 1, barrier)
        )
        for share in shares
    ]
    for process in processes:
        process.start()
    times = []
    for _ in range(rounds + 1):
        barrier.wait()
        begin = time.perf_counter()
        barrier.wait()
        times.append(time.perf_counter() - begin)
    for process in processes:
        process.join()
    return statistics.median(times[1:])


def measure(n_rows, batch_size, args):
    X, y, generator = rows_of(n_rows, args.device)
    apart = nets_of(range(N_NETS), args.device)
    stacked = [part.clone().requires_grad_() for part in make(50, 2, args.device)]
    stacked = stacked, optimizer_of(stacked)
    times = {"apart": [], "stacked": []}
    for _ in range(args.rounds + 1):
        orders = orders_of(n_rows, generator, args.device)
        for name, train, nets in (
            ("apart", epoch_apart, apart),
            ("stacked", epoch_stacked, stacked),
        ):
            begin = time.perf_counter()
            train(nets, X, y, orders, batch_size)
            if args.device != "cpu":
                torch.cuda.synchronize()
            times[name].append(time.perf_counter() - begin)
    distance = max(
        float((part[k] - net[i]).detach().abs().max())
        for k, net in enumerate(apart[0])
        for i, part in enumerate(stacked[0])
    )
    medians = {name: statistics.median(t[1:]) for name, t in times.items()}
    return medians, distance


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--write", action="store_true", help="write docs/stacked.md")
    args = parser.parse_args()
    lines = [
        "| rows | batch | threads | apart, ms | as many workers, ms | stacked, ms | "
        "apart / stacked | workers / stacked | largest difference of a weight |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for threads in args.threads:
        torch.set_num_threads(threads)
        for n_rows, batch_size in CASES:
            ms, distance = measure(n_rows, batch_size, args)
            workers = None
            if args.device == "cpu" and threads > 1:
                workers = measure_workers(n_rows, batch_size, threads, args.rounds)
            share = f"{workers / ms['stacked']:.2f}x" if workers else "-"
            lines.append(
                f"| {n_rows} | {batch_size} | {threads} | {1e3 * ms['apart']:.0f} | "
                f"{f'{1e3 * workers:.0f}' if workers else '-'} | "
                f"{1e3 * ms['stacked']:.0f} | {ms['apart'] / ms['stacked']:.2f}x | "
                f"{share} | "
                f"{distance:.1e} |"
            )
            print(lines[-1], flush=True)
    if args.write:
        (HERE.parent / "docs" / "stacked.md").write_text(
            f"""# Many small nets at once

An epoch of {N_NETS} nets of the default shape, 50 inputs, trained one after the other
and stacked into one batched net; medians of {args.rounds} rounds in turns, on
{args.device}. "Workers" are as many processes as threads, of one thread each, that
share the nets, as `n_jobs` has it. Above 1x stacking is faster.

Written by `python benchmarks/stacked.py --rounds {args.rounds} --threads
{" ".join(map(str, args.threads))}`.

{chr(10).join(lines)}
"""
        )


if __name__ == "__main__":
    main()
