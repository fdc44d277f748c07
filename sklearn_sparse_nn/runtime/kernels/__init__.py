"""The compiled kernels: layout of their program, packed weights, machine code."""
