"""The pruning decision: pure functions and tiny objects on tensors.

A pruning decision is four orthogonal choices, one file each: which weights matter
(`importance`), which live or die together (`granularity`), how the budget is split
over layers (`allocation`) and how much of it is due at which time (`schedules`).
`masks.select` puts them together; `method` resolves a pruner's parameters to them.
"""
