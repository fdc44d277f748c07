"""Prediction on a GPU of NVIDIA, through torch."""
