"""Tables, targets and a plot from what benchmarks/inference.py measured."""

import platform
import statistics
from pathlib import Path

import numpy as np
from _contenders import DEEPSPARSE, ONE_THREAD, ORT, OURS, PEERS, PROBA
from _nets import WIDTHS
from _targets import targets

HEAD = """# How fast sparse nets predict

Microseconds per row, medians (minima below) of {rounds} rounds in which all peers take
turns; every peer gets the same random weights, ReLU, the same share of zeros in every
layer, and numpy rows in float32, and gives back numpy rows. Its outputs were compared
with a product in float64 first. **Bold**: ours is the fastest of all that compute in
float32. Compare ratios, not figures: they are one machine's.

Written from

```sh
{commands}
```

{machine}

"""

NOTES = """## How to read it

- `sparse-nn` is `SparseModel.forward`. The others are called as their documentation
  advises for one process; those that compile for a batch size (OpenVINO, DeepSparse)
  are given it.
- bf16 peers compute with eight bits of mantissa: their outputs differ from the exact
  ones by up to {bf16:.1e} of the largest output, the others' by at most {f32:.1e}.
- `torch bf16` and `OpenVINO bf16` depend on what the CPU has for it: with AMX they are
  many times faster than with AVX-512 alone.
- LightGBM is another model, 100 trees of 31 leaves for two classes over rows of the
  same width: not the same work, but what many would use instead.
- scipy has no threads; its figures for two are those of one.
"""


def machine():
    """Say in words what this runs on."""
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    fields = dict(
        (part.strip() for part in line.split(":", 1))
        for line in text.splitlines()
        if ":" in line
    )
    flags = set(fields.get("flags", "").split())
    known = ("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16")
    return {
        "cpu": fields.get("model name", platform.processor() or platform.machine()),
        "cores": text.count("processor\t") or "?",
        "has": [f for f in known if f in flags],
        "has not": [f for f in known if f not in flags],
        "python": platform.python_version(),
    }


def medians(cell):
    return {name: statistics.median(times) for name, times in cell["us"].items()}


def rivals(cell, *, f32=True):
    """Give the names of the peers that do the same work as ours."""
    ours = (OURS, PROBA, ONE_THREAD)
    return [
        name
        for name in cell["us"]
        if name not in ours and PEERS[name].equal_work and not (f32 and "bf16" in name)
    ]


def cell_text(cell):
    """Lay out one record for the terminal, with warnings."""
    us = medians(cell)
    text = (
        f"\n{cell['net']}, {cell['sparsity']:.0%} zeros, batch {cell['batch']}, "
        f"{cell['threads']} thread(s)\n"
        f"{'':26}{'median us/row':>14}{'minimum':>10}{'to ours':>9}{'error':>9}"
        f"{'cores':>7}\n"
    )
    for name, median in us.items():
        ratio = median / us[OURS] if OURS in us else float("nan")
        text += (
            f"{name:26}{median:14.3f}{min(cell['us'][name]):10.3f}"
            f"{ratio:8.2f}x{cell['error'][name]:9.0e}{cell['cores'][name]:7.2f}\n"
        )
    return text + "".join(f"WARNING: {line}\n" for line in busy(cell))


def busy(cell):
    """Name the peers that used more cores than they were given."""
    return [
        f"{name} used {cores:.2f} cores of {cell['threads']} "
        f"({cell['net']}, batch {cell['batch']})"
        for name, cores in cell["cores"].items()
        if cores > 1.1 * cell["threads"]
    ]


def table(rows):
    head, *body = [[str(item) for item in row] for row in rows]
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def figure(value):
    """Give three digits, or all before the point."""
    return f"{value:.{max(0, 2 - int(np.floor(np.log10(value))))}f}"


def times_table(cells, statistic):
    """Make the table of one net and number of threads: batch by sparsity, and peers."""
    names = [n for n in PEERS if n != PROBA and any(n in c["us"] for c in cells)]
    against = [n for n in (ORT, DEEPSPARSE) if n in names]
    ratios = [f"{name} / ours" for name in (*against, "best f32")]
    rows = [["batch", "zeros", *names, *ratios]]
    for cell in sorted(cells, key=lambda c: (c["batch"], c["sparsity"])):
        us = {name: statistic(times) for name, times in cell["us"].items()}
        others = [us[name] for name in rivals(cell)]
        row = [cell["batch"], f"{cell['sparsity']:.0%}"]
        for name in names:
            text = figure(us[name]) if name in us else ""
            best = name == OURS and others and us[name] <= min(others)
            row.append(f"**{text}**" if best else text)
        row += [f"{us[n] / us[OURS]:.2f}" if n in us else "" for n in against]
        rows.append([*row, f"{min(others) / us[OURS]:.2f}" if others else ""])
    return table(rows)


def targets_text(results):
    rows = [["what", "target", "measured", "where", "reached"]]
    for line in targets(results["cells"], results["start"]):
        if line.value is None:
            rows.append([line.what, line.wanted, "not measured", "", ""])
            continue
        reached = "yes" if line.reached else "**no**"
        rows.append([line.what, line.wanted, line.measured, line.where, reached])
    return table(rows)


def single_rows(cells):
    """Compare predict_proba of one row with session.run, everything included."""
    rows = [["net", "zeros", "predict_proba", "session.run", "ratio"]]
    for cell in cells:
        us = medians(cell)
        if cell["threads"] == 1 and {PROBA, ORT} <= set(us):
            ratio = us[ORT] / us[PROBA]
            row = [cell["net"], f"{cell['sparsity']:.0%}", figure(us[PROBA])]
            rows.append([*row, figure(us[ORT]), f"{ratio:.2f}"])
    return table(rows)


def machine_text(results):
    has = results["machine"]
    versions = {}
    for name, version in results["versions"].items():
        versions.setdefault(PEERS[name].package or name, version)
    text = f"{has['cpu']}, {has['cores']} cores, with {' '.join(has['has'])}"
    if has["has not"]:
        text += f", without {' '.join(has['has not'])}"
    text += f"; Python {has['python']}; "
    text += ", ".join(f"{k} {v}" for k, v in versions.items() if k[:7] != "sklearn")
    text += ".\n"
    for name, reason in results["missing"].items():
        text += f"\nLeft out: {name}: {reason}.\n"
    return text


def largest_errors(cells):
    errors = {"bf16": 0.0, "f32": 0.0}
    for cell in cells:
        for name, error in cell["error"].items():
            kind = "bf16" if "bf16" in name else "f32"
            errors[kind] = max(errors[kind], error)
    return errors


def document(results):
    """Write the whole page."""
    cells, given = results["cells"], results["arguments"]
    script = "python benchmarks/inference.py"
    commands = "\n".join(f"{script} {t}".strip() for t in given["text"].split("\n"))
    machine = machine_text(results)
    text = HEAD.format(rounds=given["rounds"], commands=commands, machine=machine)
    text += "## Targets\n\nThe worst case of each.\n\n" + targets_text(results)
    text += "\n## Speed-up against a dense net\n\n"
    text += "![Speed-up against ONNX Runtime by sparsity](inference.svg)\n\n"
    minima = ""
    for net, widths in WIDTHS.items():
        for threads in sorted({cell["threads"] for cell in cells}):
            part = [c for c in cells if (c["net"], c["threads"]) == (net, threads)]
            if part:
                shape = "-".join(map(str, widths))
                title = f"{net} ({shape}), {threads} thread{'s'[: threads > 1]}\n\n"
                text += f"## {title}{times_table(part, statistics.median)}\n"
                minima += f"### {title}{times_table(part, min)}\n"
    text += "## Single rows, everything included\n\nMicroseconds; one thread.\n\n"
    text += single_rows(cells) + "\n"
    notes = NOTES.format(**largest_errors(cells))
    warnings = sorted({line for cell in cells for line in busy(cell)})
    text += notes + "".join(f"- {line}.\n" for line in warnings)
    return f"{text}\n## Minima\n\n{minima.rstrip()}\n"


def write(results, folder):
    from _plot import draw

    (folder / "inference.md").write_text(document(results))
    draw(results["cells"], folder / "inference.svg")
