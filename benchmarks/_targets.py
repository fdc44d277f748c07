"""What the runtime has to reach, as ratios within one run."""

import statistics
from dataclasses import dataclass

from _contenders import DEEPSPARSE, ONE_THREAD, ORT, OURS, PROBA

DENSE = ("torch f32", ORT, "OpenVINO f32")


@dataclass
class Target:
    """One line of the table."""

    what: str
    wanted: str
    value: float | None
    goal: float
    where: str = ""

    @property
    def seconds(self):
        return self.wanted.startswith("<=")

    @property
    def reached(self):
        return self.value <= self.goal if self.seconds else self.value >= self.goal

    @property
    def measured(self):
        return f"{self.value:.2f} s" if self.seconds else f"{self.value:.2f}x"


def worst(cells, slow, fast=OURS, **where):
    """Find the lowest ratio of medians among the cells that match."""
    found = []
    for cell in cells:
        fits = all(
            cell[key] in (value if isinstance(value, tuple) else (value,))
            for key, value in where.items()
        )
        if fits and slow in cell["us"] and fast in cell["us"]:
            ratio = statistics.median(cell["us"][slow])
            ratio /= statistics.median(cell["us"][fast])
            place = f"{cell['net']}, {cell['sparsity']:.0%}, batch {cell['batch']}"
            threads = "" if cell["threads"] == 1 else f", {cell['threads']} threads"
            found.append((ratio, place + threads))
    return min(found, default=(None, ""))


def targets(cells, start):
    """Compare what was measured with what was set as a goal."""
    lines = []

    def at_least(goal, what, slow, fast=OURS, **where):
        value, place = worst(cells, slow, fast, **where)
        lines.append(Target(what, f">= {goal}x", value, goal, place))

    mid = {"net": "mid", "threads": 1}
    many = {**mid, "batch": (64, 1024)}
    for sparsity, goal in ((0.8, 3.4), (0.9, 5.7), (0.95, 9.5)):
        what = f"mid, batch 64 and 1024, {sparsity:.0%}, to ONNX Runtime"
        at_least(goal, what, ORT, sparsity=sparsity, **many)
    for sparsity in (0.8, 0.9, 0.95):
        what = f"mid, batch 64 and 1024, {sparsity:.0%}, to DeepSparse"
        at_least(1.3, what, DEEPSPARSE, sparsity=sparsity, **many)
    one = {**mid, "batch": 1, "sparsity": 0.9}
    at_least(7, "mid, one row, 90%, to ONNX Runtime", ORT, **one)
    at_least(2.7, "mid, one row, 90%, to DeepSparse", DEEPSPARSE, **one)
    what = "small, one row, predict_proba to session.run"
    at_least(1, what, ORT, PROBA, net="small", batch=1, threads=1)
    for threads in (1, 2):
        for peer in DENSE:
            what = f"never slower than dense, {threads} thread(s): {peer}"
            at_least(1, what, peer, threads=threads)
    what = "mid, batch 1024, two threads to one"
    at_least(1.8, what, ONE_THREAD, net="mid", batch=1024, threads=2)
    what = "import of the runtime"
    lines.append(Target(what, "<= 0.5 s", statistics.median(start["import"]), 0.5))
    what = "first prediction, kernels cached"
    lines.append(Target(what, "<= 0.3 s", statistics.median(start["first"]), 0.3))
    return lines
