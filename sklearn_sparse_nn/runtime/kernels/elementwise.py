"""Activations in float32, without branches, so that LLVM turns loops into vectors.

A number gets the same bits at every place in a loop: there are only plain IEEE
operations, in a fixed order, none of them fused.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba import extending as numba_extending
from numba import njit, types
from numba.core.base import BaseContext as Context
from numba.core.typing.templates import Signature

from sklearn_sparse_nn.runtime.activations import Code

__all__ = ["activate", "exp"]

intrinsic: Any = numba_extending.intrinsic  # its types do not know the context
_f = np.float32
_ONE, _TWO, _HALF, _ZERO = _f(1), _f(2), _f(0.5), _f(0)
# exp: Cephes expf (Moshier), by Cody and Waite's reduction.
_EXP_HIGH, _EXP_LOW = _f(88.3762626647949), _f(-87.3365478515625)
_EXP_MAX, _INFINITY = _f(88.72283905206835), _f(np.inf)
_LOG2E, _LN2_HIGH, _LN2_LOW = (
    _f(1.44269504088896341),
    _f(0.693359375),
    _f(-2.12194440e-4),
)
_ROUND = _f(12582912)  # 1.5 * 2**23: adding it rounds to an integer
_E0, _E1, _E2 = _f(1.9875691500e-4), _f(1.3981999507e-3), _f(8.3334519073e-3)
_E3, _E4, _E5 = _f(4.1665795894e-2), _f(1.6666665459e-1), _f(5.0000001201e-1)
# tanh: Cephes tanhf.
_T0, _T1, _T2 = _f(-5.70498872745e-3), _f(2.06390887954e-2), _f(-5.37397155531e-2)
_T3, _T4, _TANH_SMALL = _f(1.33314422036e-1), _f(-3.33332819422e-1), _f(0.625)
# erf and erfc: Cephes ndtrf.
_SQRT_HALF = _f(0.70710678118654752)
_F = tuple(
    _f(c)
    for c in (
        7.853861353153693e-5,
        -8.010193625184903e-4,
        5.188327685732524e-3,
        -2.685381193529856e-2,
        1.128358514861418e-1,
        -3.761262582423300e-1,
        1.128379165726710e0,
    )
)
_P = tuple(
    _f(c)
    for c in (
        2.326819970068386e-2,
        -1.387039388740657e-1,
        3.687424674597105e-1,
        -5.824733027278666e-1,
        6.210004621745983e-1,
        -4.944515323274145e-1,
        3.404879937665872e-1,
        -2.741127028184656e-1,
        5.638259427386472e-1,
    )
)
_R = tuple(
    _f(c)
    for c in (
        -1.047766399936249e1,
        1.297719955372516e1,
        -7.495518717768503e0,
        2.921019019210786e0,
        -1.015265279202700e0,
        4.218463358204948e-1,
        -2.820767439740514e-1,
        5.641895067754075e-1,
    )
)
_GELU_SCALE = _f(2 * 0.7978845608028654)  # 2 sqrt(2 / pi)
_GELU_CUBE = _f(0.044715)
_SELU_ALPHA, _SELU_SCALE = _f(1.6732632423543772), _f(1.0507009873554805)
_MISH_HIGH = _f(20)
# 2 atanh(s) / s, by its series, for s up to a third.
_A = tuple(_f(2 / n) for n in (15, 13, 11, 9, 7, 5, 3, 1))

_inline = njit(nogil=True, error_model="numpy")


@intrinsic
def _from_bits(typingctx, bits):  # type: ignore[no-untyped-def]
    def codegen(
        context: Context,
        builder: ir.IRBuilder,
        sig: Signature,
        args: Sequence[ir.Value],
    ) -> ir.Value:
        return builder.bitcast(args[0], ir.FloatType())

    return types.float32(types.int32), codegen


@intrinsic
def _select(typingctx, condition, yes, no):  # type: ignore[no-untyped-def]
    """Choose without a branch: a branch would keep a loop from becoming vectors."""

    def codegen(
        context: Context,
        builder: ir.IRBuilder,
        sig: Signature,
        args: Sequence[ir.Value],
    ) -> ir.Value:
        return builder.select(*args)

    f32 = types.float32
    return f32(types.boolean, f32, f32), codegen


@_inline
def exp(x):  # type: ignore[no-untyped-def]
    """Compute the exponential of a float32; NaN stays NaN, the ends are clipped."""
    y = _select(x < _EXP_HIGH, x, _EXP_HIGH)
    y = _select(y > _EXP_LOW, y, _EXP_LOW)
    n = (y * _LOG2E + _ROUND) - _ROUND
    r = (y - n * _LN2_HIGH) - n * _LN2_LOW
    p = ((((_E0 * r + _E1) * r + _E2) * r + _E3) * r + _E4) * r + _E5
    p = p * (r * r) + r + _ONE
    # Twice a half of the power: 2**128 is no float32.
    power = _from_bits(np.int32((np.int32(n) + np.int32(126)) << np.int32(23)))
    result = p * power * _TWO
    result = _select(x > _EXP_MAX, _INFINITY, result)
    return _select(x != x, x, result)


@_inline
def _polynomial(coefficients, x):  # type: ignore[no-untyped-def]
    total = coefficients[0]
    for c in coefficients[1:]:
        total = total * x + c
    return total


@_inline
def _tanh(x):  # type: ignore[no-untyped-def]
    size = abs(x)
    z = x * x
    small = ((((_T0 * z + _T1) * z + _T2) * z + _T3) * z + _T4) * z * x + x
    large = _ONE - _TWO / (exp(size + size) + _ONE)
    large = _select(x > _ZERO, large, -large)
    return _select(size < _TANH_SMALL, small, large)


@_inline
def _sigmoid(x):  # type: ignore[no-untyped-def]
    return _ONE / (_ONE + exp(-x))


@_inline
def _expm1(x):  # type: ignore[no-untyped-def]
    """Compute exp(x) - 1 for x at most 0, by tanh(x / 2): nothing cancels."""
    t = _tanh(_HALF * x)
    return (t + t) / (_ONE - t)


@njit(inline="always", error_model="numpy")
def _erfc(x):  # type: ignore[no-untyped-def]
    # LLVM finds it too long to inline by itself, and calls make no vectors.
    size = abs(x)
    z = x * x
    f = (
        ((((_F[0] * z + _F[1]) * z + _F[2]) * z + _F[3]) * z + _F[4]) * z + _F[5]
    ) * z + _F[6]
    near = _ONE - x * f
    away = _select(size > _ONE, size, _ONE)
    q = _ONE / away
    y = q * q
    p = (
        (
            (((((_P[0] * y + _P[1]) * y + _P[2]) * y + _P[3]) * y + _P[4]) * y + _P[5])
            * y
            + _P[6]
        )
        * y
        + _P[7]
    ) * y + _P[8]
    r = (
        (((((_R[0] * y + _R[1]) * y + _R[2]) * y + _R[3]) * y + _R[4]) * y + _R[5]) * y
        + _R[6]
    ) * y + _R[7]
    p = _select(away < _TWO, p, r)
    tail = exp(-(away * away)) * q * p
    other = _TWO - tail
    far = _select(x > _ZERO, tail, other)
    result = _select(size < _ONE, near, far)
    return _select(x != x, x, result)


@_inline
def _softplus(x, beta, threshold):  # type: ignore[no-untyped-def]
    scaled = x * beta
    z = exp(-abs(scaled))
    s = z / (_TWO + z)
    rest = _polynomial(_A, s * s) * s
    positive = _select(scaled > _ZERO, scaled, _ZERO)
    smooth = (positive + rest) / beta
    return _select(scaled > threshold, x, smooth)


@_inline
def _mish(x):  # type: ignore[no-untyped-def]
    e = exp(_select(x < _MISH_HIGH, x, _MISH_HIGH))
    n = e * (e + _TWO)
    product = x * (n / (n + _TWO))
    return _select(x > _MISH_HIGH, x, product)


@_inline
def _elu(x, alpha):  # type: ignore[no-untyped-def]
    below = alpha * _expm1(_select(x < _ZERO, x, _ZERO))
    result = _select(x > _ZERO, x, below)
    return _select(x != x, x, result)


@_inline
def _activate_more(code, p0, p1, values):  # type: ignore[no-untyped-def]
    """Apply an activation that needs an exponential."""
    n = values.shape[0]
    if code == Code.gelu:
        for i in range(n):
            x = values[i]
            values[i] = _HALF * x * _erfc(-x * _SQRT_HALF)
    elif code == Code.gelu_tanh:
        for i in range(n):
            x = values[i]
            values[i] = x * _sigmoid(_GELU_SCALE * (x + _GELU_CUBE * x * x * x))
    elif code == Code.silu:
        for i in range(n):
            values[i] = values[i] * _sigmoid(values[i])
    elif code == Code.mish:
        for i in range(n):
            values[i] = _mish(values[i])
    elif code == Code.tanh:
        for i in range(n):
            values[i] = _tanh(values[i])
    elif code == Code.sigmoid:
        for i in range(n):
            values[i] = _sigmoid(values[i])
    elif code == Code.softplus:
        for i in range(n):
            values[i] = _softplus(values[i], p0, p1)
    elif code == Code.elu:
        for i in range(n):
            values[i] = _elu(values[i], p0)
    elif code == Code.selu:
        for i in range(n):
            values[i] = _SELU_SCALE * _elu(values[i], _SELU_ALPHA)


@_inline
def activate(code, p0, p1, values):  # type: ignore[no-untyped-def]
    """Apply an activation in place to a float32 vector."""
    if code == Code.identity:
        return
    n = values.shape[0]
    if code == Code.relu:
        for i in range(n):
            x = values[i]
            values[i] = _ZERO if x < _ZERO else x
    elif code == Code.leaky_relu:
        for i in range(n):
            x = values[i]
            values[i] = x if x > _ZERO else x * p0
    elif code == Code.hardtanh:
        for i in range(n):
            x = values[i]
            x = p0 if x < p0 else x
            values[i] = p1 if x > p1 else x
    elif code == Code.softsign:
        for i in range(n):
            values[i] = values[i] / (_ONE + abs(values[i]))
    elif code == Code.threshold:
        for i in range(n):
            x = values[i]
            values[i] = p1 if x <= p0 else x
    else:
        _activate_more(code, p0, p1, values)
