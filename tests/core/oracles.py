"""The rules again, as slow loops over exact numbers, to compare with."""

from decimal import ROUND_HALF_UP, Decimal, localcontext
from fractions import Fraction

import numpy as np


def half_up(value, times):
    """Round ``value * times`` half up; a number counts as it is written."""
    with localcontext() as context:
        context.prec = 1100  # all digits of any float
        product = Decimal(f"{value}") * times
        return int(product.quantize(Decimal(1), rounding=ROUND_HALF_UP))


def n_asked(sparsity, size):
    """Count the zeros that a sparsity asks for, as it is written."""
    return half_up(Decimal(f"{sparsity}"), size)


def group_of_each_weight(granularity, shape):
    """Number the groups of a weight in memory order, in an array of its shape."""
    n_rows, n_columns = shape[0], int(np.prod(shape[1:]))
    kernel = int(np.prod(shape[2:]))
    label = np.empty((n_rows, n_columns), dtype=int)
    for row in range(n_rows):
        for column in range(n_columns):
            if granularity == "neuron":
                label[row, column] = row
            elif granularity == "input":
                label[row, column] = column // kernel
            elif granularity.startswith("block:"):
                tall, wide = map(int, granularity.removeprefix("block:").split("x"))
                n_across = len(range(0, n_columns, wide))
                label[row, column] = (row // tall) * n_across + column // wide
            else:
                label[row, column] = row * n_columns + column
    return label.reshape(shape)


def mean_of_group(scores, members):
    """Give the exact mean of an array's marked elements."""
    values = [Fraction(float(value)) for value in scores[members]]
    return sum(values) / len(values)


def in_pattern(scores, n, m):
    """Mark the n best of every m in a row, of equal ones the first, one by one."""
    matrix = scores.reshape(len(scores), -1)
    keep = np.zeros(matrix.shape, dtype=bool)
    for row, line in enumerate(matrix):
        for start in range(0, len(line), m):
            run = range(start, min(start + m, len(line)))
            for column in sorted(run, key=lambda column: (-line[column], column))[:n]:
                keep[row, column] = True
    return keep.reshape(scores.shape)


def ranked_groups(weights, granularity):
    """List (layer, members) of all groups by mean magnitude, best first."""
    ranking = []
    for place, (name, weight) in enumerate(weights.items()):
        scores = np.abs(weight.numpy())
        label = group_of_each_weight(granularity, scores.shape)
        first = np.zeros(scores.shape, dtype=bool)
        if granularity[0].isdigit():
            first = in_pattern(scores, *map(int, granularity.split(":")))
        for group in range(label.max() + 1):
            members = label == group
            mean = mean_of_group(scores, members)
            rank = (not first[members].any(), -mean, place, group)
            ranking.append((rank, name, members))
    ranking.sort(key=lambda entry: entry[0])
    return [(name, members) for _, name, members in ranking]


def longest_run(weights, ranking, n_kept):
    """Keep groups from the top of the ranking until the next one does not fit."""
    masks = {
        name: np.zeros(weight.shape, dtype=bool) for name, weight in weights.items()
    }
    room = n_kept
    for name, members in ranking:
        room -= members.sum()
        if room < 0:
            break
        masks[name] |= members
    return masks


def n_to_reach_all(weights, ranking):
    """Count the weights in the shortest run that has a group of every layer."""
    missing = set(weights)
    total = 0
    for name, members in ranking:
        total += int(members.sum())
        missing.discard(name)
        if not missing:
            break
    return total


def most_in_a_run(mask, m):
    """Give the largest number of survivors among m weights in a row."""
    matrix = mask.reshape(len(mask), -1)
    return max(
        int(line[start : start + m].sum())
        for line in matrix
        for start in range(0, len(line), m)
    )
