"""Time predictions of sparse nets against their peers, side by side in one run.

Nets have random weights with an exact share of zeros in every layer; all peers get the
same. A peer's outputs are compared with a product in float64 before it is timed. Peers
take turns, round after round, in another order every time, because the machine may be
shared: what counts is the ratio of their medians. Run with::

    python benchmarks/inference.py [--quick] [--nets mid] [--batches 1 64] [--write]

``--write`` makes docs/inference.md and its plot; ``--rewrite`` makes them again from
the figures of the last run. Install the peers with ``pip install -e ".[bench]"``;
DeepSparse needs an interpreter of its own: ``--deepsparse PATH``.
"""

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import time
from pathlib import Path

import _report
from _contenders import ONE_THREAD, OURS, PEERS, PROBA, available
from _nets import WIDTHS, exact_outputs, make_net
from threadpoolctl import threadpool_limits

HERE = Path(__file__).parent
SPARSITIES = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)
BATCHES = (1, 8, 64, 1024, 16384)

FIRST_PREDICTION = """
import json, time
begin = time.perf_counter()
import sklearn_sparse_nn.runtime
imported = time.perf_counter() - begin
from _nets import make_net
from _peers import sparse_model
net = make_net("small", 0.9, 1)
begin = time.perf_counter()
sparse_model(net).predict_proba(net.X)
print(json.dumps([imported, time.perf_counter() - begin]))
"""


def seconds_of_start(repeats):
    """Time import and first prediction in fresh processes; the first fills caches."""
    env = {**os.environ, "PYTHONPATH": str(HERE)}
    command = [sys.executable, "-c", FIRST_PREDICTION]
    runs = [
        json.loads(subprocess.run(command, env=env, stdout=-1, check=True).stdout)
        for _ in range(repeats + 1)
    ][1:]
    imports, firsts = zip(*runs, strict=True)
    return {"import": imports, "first": firsts}


def ready_peers(net, names, threads, notes):
    """Make every peer that can be made; the others leave a note."""
    peers = {}
    for name in names:
        if name == ONE_THREAD and threads == 1:
            continue
        try:
            peers[name] = PEERS[name](net, threads)
        except Exception as error:
            notes[name] = f"could not read the net ({error})"
    return peers


def bound_peers(peers, X, exact, notes):
    """Give the peers whose outputs for these rows are right, and all errors."""
    bound, errors = {}, {}
    for name, peer in peers.items():
        if peer.max_batch is not None and len(X) > peer.max_batch:
            continue
        try:
            peer.bind(X)
            errors[name] = peer.error(exact)
        except Exception as error:
            notes[name] = f"could not run ({error})"
            continue
        if errors[name] <= peer.tolerance:  # False for NaN, too
            bound[name] = peer
        else:
            where = f"{peer.net.name}, {peer.net.sparsity:.0%} zeros, batch {len(X)}"
            notes[name] = f"wrong by {errors[name]:.1e} of the largest output ({where})"
    return bound, errors


def wait_for_quiet(look=0.02):
    """Wait until threads of pools sleep; ONNX Runtime's spin for 40 ms after work.

    What a thread on another core spends is known only at the kernel's ticks, so a
    shorter look may miss it.
    """
    for _ in range(50):
        spent = time.process_time()
        time.sleep(look)
        if time.process_time() - spent < 0.1 * look:
            break


def measure(bound, threads, rounds, budget):
    """Time every peer once a round, for as many calls as fit into its budget.

    With several threads, as many calls go before, untimed: pools of threads are then
    as awake as they are in a process that goes on predicting.
    """
    calls = {}
    wait_for_quiet()  # of what came before this
    for name, peer in bound.items():
        peer.time(1)
        calls[name] = min(1000, max(1, round(budget / peer.time(1)[0])))
    walls = {name: [] for name in bound}
    cpus = {name: [] for name in bound}
    names = list(bound)
    for round_ in range(rounds):
        shift = round_ % len(names)
        # Reversed every other round, so that nobody always follows the same peer.
        for name in (names[shift:] + names[:shift])[:: 1 - 2 * (round_ % 2)]:
            wait_for_quiet(0.002 if threads == 1 else 0.02)
            if threads > 1:  # threads that had slept may take a while to run at all
                bound[name].time(calls[name])
            wall, cpu = bound[name].time(calls[name])
            walls[name].append(wall / calls[name])
            cpus[name].append(cpu / calls[name])
    return walls, cpus


def cells_of(net, exact, threads, args, names, notes):
    """Measure one net with one number of threads; yield a record per batch size."""
    import torch

    peers = ready_peers(net, names, threads, notes)
    torch.set_num_threads(threads)
    with threadpool_limits(threads):  # the pools that building loaded are limited too
        for batch in args.batches:
            bound, errors = bound_peers(peers, net.X[:batch], exact[:batch], notes)
            walls, cpus = measure(bound, threads, args.rounds, args.budget)
            yield {
                "net": net.name,
                "sparsity": net.sparsity,
                "threads": threads,
                "batch": batch,
                "us": {n: [1e6 * s / batch for s in walls[n]] for n in bound},
                "cores": {n: sum(cpus[n]) / sum(walls[n]) for n in bound},
                "error": {n: errors[n] for n in bound},
            }
    for peer in peers.values():
        peer.close()


def run(args):
    """Measure all that is asked for, and keep what is done so far in a file."""
    versions, missing = available(args.peers, args.deepsparse)
    for name, reason in missing.items():
        print(f"left out: {name}: {reason}")
    results = {
        "machine": _report.machine(),
        "versions": versions,
        "missing": missing,
        "arguments": {"text": args.text, "rounds": args.rounds},
        "start": seconds_of_start(args.rounds),
        "cells": [],
    }
    for name in args.nets:
        for sparsity in args.sparsities:
            net = make_net(name, sparsity, max(args.batches))
            exact = exact_outputs(net)
            for threads in args.threads:
                notes = {}
                for cell in cells_of(net, exact, threads, args, versions, notes):
                    print(_report.cell_text(cell), flush=True)
                    results["cells"].append(cell)
                for peer, reason in notes.items():
                    print(f"left out: {peer}: {reason}", flush=True)
                    missing[peer] = reason
                args.out.parent.mkdir(parents=True, exist_ok=True)
                args.out.write_text(json.dumps(results))
    starts = {k: statistics.median(v) for k, v in results["start"].items()}
    print("import {import:.2f} s, first prediction {first:.2f} s more".format(**starts))
    return results


def command_text(args, parser):
    """Give the options of the same run elsewhere; paths are nobody's business."""
    text = "--deepsparse PYTHON " if args.deepsparse else ""
    text += "--quick " if args.quick else ""
    for name in ("nets", "sparsities", "batches", "threads", "rounds", "peers"):
        value = getattr(args, name)
        if value != parser.get_default(name):
            values = value if isinstance(value, list) else [value]
            text += f"--{name} {' '.join(map(shlex.quote, map(str, values)))} "
    return text


def parsed():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--nets", nargs="+", choices=WIDTHS, default=list(WIDTHS))
    add("--sparsities", nargs="+", type=float, default=list(SPARSITIES))
    add("--batches", nargs="+", type=int, default=list(BATCHES))
    add("--threads", nargs="+", type=int, default=[1, 2])
    add("--rounds", type=int, help="default 9, or 3 with --quick")
    add("--peers", nargs="+", choices=PEERS, default=list(PEERS), metavar="PEER")
    add("--deepsparse", metavar="PYTHON", help="interpreter that has DeepSparse")
    add("--quick", action="store_true", help="a look, not a measurement")
    add("--out", type=Path, default=HERE / "output" / "inference.json")
    add("--write", action="store_true", help="write docs/inference.md and its plot")
    add("--rewrite", action="store_true", help="write them from --out, no new run")
    add("--also", nargs="*", type=Path, default=[], help="results of other runs, too")
    add("--docs", type=Path, default=HERE.parent / "docs")
    args = parser.parse_args()
    args.text = command_text(args, parser)
    args.rounds = args.rounds or (3 if args.quick else 9)
    args.budget = 0.005 if args.quick else 0.02
    # Everything is compared with these.
    args.peers = [p for p in PEERS if p in (*args.peers, OURS, PROBA, ONE_THREAD)]
    return args


def with_others(results, paths):
    """Add the cells of other runs, and how they were made."""
    order = {name: i for i, name in enumerate(WIDTHS)}
    given = results["arguments"]
    rounds = [given["rounds"]]
    for other in (json.loads(path.read_text()) for path in paths):
        results["cells"] += other["cells"]
        given["text"] += "\n" + other["arguments"]["text"]
        rounds.append(other["arguments"]["rounds"])
    given["rounds"] = " or ".join(map(str, sorted(set(rounds))))
    results["cells"].sort(
        key=lambda c: (order[c["net"]], c["sparsity"], c["threads"], c["batch"])
    )
    return results


def main():
    args = parsed()
    results = json.loads(args.out.read_text()) if args.rewrite else run(args)
    results = with_others(results, args.also)
    print(_report.targets_text(results))
    if args.write or args.rewrite:
        _report.write(results, args.docs)


if __name__ == "__main__":
    main()
