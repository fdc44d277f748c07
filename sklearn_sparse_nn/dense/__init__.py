"""The dense nets: estimators, and the source of the net that a pruner takes."""
