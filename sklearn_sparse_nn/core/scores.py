"""The scores of the literature: one function for each formula, high = keep.

Each takes the weight of one layer, of shape (out, in, ...), and by keyword the
statistics that its formula names (see `importance.STATISTICS`). Where a paper removes
the highest score, the sign is turned. Scores of a group of weights are the mean over
the group. Facts that the rules read are attributes of the function
(see `importance.FACTS`).
"""

import torch
from torch import Tensor

__all__ = [
    "apoz",
    "fisher",
    "fpgm",
    "gradient",
    "grasp",
    "magnitude",
    "magnitude_l2",
    "movement",
    "random",
    "snip",
    "synflow",
    "taylor",
    "wanda",
]


def magnitude(weight: Tensor) -> Tensor:
    """Score weights by their absolute value (L1).

    Pooled over a group this is the mean absolute value of its weights.

    Parameters
    ----------
    weight : Tensor of shape (out, in, ...)
        The weights of one layer.

    Returns
    -------
    scores : Tensor of the same shape
        ``|w|``.

    References
    ----------
    Han et al. 2015, "Learning both Weights and Connections", section 3.

    Examples
    --------
    >>> import torch
    >>> magnitude(torch.tensor([[-2.0, 0.5]]))
    tensor([[2.0000, 0.5000]])
    """
    return weight.abs()


def magnitude_l2(weight: Tensor) -> Tensor:
    """Score weights by their square (L2).

    Single weights rank as under `magnitude`; groups rank by their mean square, so one
    large weight saves its group more easily.

    Parameters
    ----------
    weight : Tensor of shape (out, in, ...)
        The weights of one layer.

    Returns
    -------
    scores : Tensor of the same shape
        ``w ** 2``.

    Examples
    --------
    >>> import torch
    >>> magnitude_l2(torch.tensor([[-2.0, 0.5]]))
    tensor([[4.0000, 0.2500]])
    """
    return weight.square()


def random(weight: Tensor, *, generator: torch.Generator) -> Tensor:
    """Score weights at random: the control that every importance has to beat.

    Parameters
    ----------
    weight : Tensor of shape (out, in, ...)
        The weights of one layer; only shape, dtype and device are used.
    generator : torch.Generator
        The pruner's own generator, on the CPU.

    Returns
    -------
    scores : Tensor of the same shape
        Uniform in [0, 1).

    Examples
    --------
    >>> import torch
    >>> scores = random(torch.ones(3, 2), generator=torch.Generator().manual_seed(0))
    >>> tuple(scores.shape)
    (3, 2)
    """
    return torch.rand(weight.shape, generator=generator).to(weight.device)


def gradient(weight: Tensor, *, grad: Tensor) -> Tensor:
    """Score weights by the slope of the loss: training would move the steepest first.

    The usual choice for growing weights, which are zero and have no other score.

    Parameters
    ----------
    weight : Tensor of shape (out, in, ...)
        The weights of one layer; not used.
    grad : Tensor of the same shape
        Gradient of the mean loss.

    Returns
    -------
    scores : Tensor of the same shape
        ``|g|``.

    References
    ----------
    Evci et al. 2020, "Rigging the Lottery", section 3 (growth).

    Examples
    --------
    >>> gradient(torch.zeros(1, 2), grad=torch.tensor([[-3.0, 0.5]]))
    tensor([[3.0000, 0.5000]])
    """
    return grad.abs()


def snip(weight: Tensor, *, grad: Tensor) -> Tensor:
    """Score weights by the slope of the loss as their connection is switched off.

    Parameters
    ----------
    weight, grad : Tensor of shape (out, in, ...)
        The weights of one layer, and the gradient of the mean loss.

    Returns
    -------
    scores : Tensor of the same shape
        ``|g * w|``; the paper's division by their sum changes no ranking.

    References
    ----------
    Lee, Ajanthan and Torr 2019, "SNIP", equation 6.

    Examples
    --------
    >>> snip(torch.tensor([[2.0, -1.0]]), grad=torch.tensor([[0.5, 3.0]]))
    tensor([[1., 3.]])
    """
    return (grad * weight).abs()


def taylor(weight: Tensor, *, grad: Tensor) -> Tensor:
    """Score weights by the squared first-order change of the loss without them.

    Single weights rank as under `snip`; groups rank by their mean square.

    Parameters
    ----------
    weight, grad : Tensor of shape (out, in, ...)
        The weights of one layer, and the gradient of the mean loss.

    Returns
    -------
    scores : Tensor of the same shape
        ``(g * w) ** 2``.

    References
    ----------
    Molchanov et al. 2019, "Importance Estimation for Neural Network Pruning",
    equation 8.

    Examples
    --------
    >>> taylor(torch.tensor([[2.0, -1.0]]), grad=torch.tensor([[0.5, 3.0]]))
    tensor([[1., 9.]])
    """
    return (grad * weight).square()


def grasp(weight: Tensor, *, hessian_grad: Tensor) -> Tensor:
    """Score weights by their contribution to the norm of the gradient.

    Removing a weight changes the squared norm of the gradient by ``-2 w (Hg)``, so the
    weights are kept whose removal would lower it most. Scores have a sign.

    Parameters
    ----------
    weight, hessian_grad : Tensor of shape (out, in, ...)
        The weights of one layer, and the loss's Hessian times its gradient.

    Returns
    -------
    scores : Tensor of the same shape
        ``w * (Hg)``: the paper's score with the sign turned, as it removes the highest.

    References
    ----------
    Wang, Zhang and Grosse 2020, "Picking Winning Tickets Before Training by
    Preserving Gradient Flow", equation 8 (with temperature 1).

    Examples
    --------
    >>> grasp(torch.tensor([[2.0, -1.0]]), hessian_grad=torch.tensor([[0.5, 3.0]]))
    tensor([[ 1., -3.]])
    """
    return weight * hessian_grad


grasp.signed = True  # type: ignore[attr-defined]


def synflow(weight: Tensor, *, path_grad: Tensor) -> Tensor:
    """Score weights by the mass of all paths through them; needs no data.

    One event at a high sparsity breaks the net; many small ones never do. Use
    ``schedule="exponential"`` with some dozens of `n_steps`.

    Parameters
    ----------
    weight, path_grad : Tensor of shape (out, in, ...)
        The weights of one layer, and the slope of the net's path mass by their
        absolute values.

    Returns
    -------
    scores : Tensor of the same shape
        ``|w| * dR / d|w|`` with ``R = 1' |W_L| ... |W_1| 1``.

    References
    ----------
    Tanaka et al. 2020, "Pruning neural networks without any data by iteratively
    conserving synaptic flow", section 5.

    Examples
    --------
    >>> synflow(torch.tensor([[2.0, -1.0]]), path_grad=torch.tensor([[0.5, 3.0]]))
    tensor([[1., 3.]])
    """
    return weight.abs() * path_grad


def movement(weight: Tensor, *, movement: Tensor) -> Tensor:
    """Score weights by their movement away from zero in training.

    Parameters
    ----------
    weight : Tensor of shape (out, in, ...)
        The weights of one layer; not used.
    movement : Tensor of the same shape
        Sum of ``-g * w`` over the training steps so far.

    Returns
    -------
    scores : Tensor of the same shape
        The sum itself; negative where training shrinks the weight.

    References
    ----------
    Sanh, Wolf and Rush 2020, "Movement Pruning", equation 3.

    Examples
    --------
    >>> movement(torch.zeros(1, 2), movement=torch.tensor([[0.5, -3.0]]))
    tensor([[ 0.5000, -3.0000]])
    """
    return movement


movement.signed = True  # type: ignore[attr-defined]


def fisher(weight: Tensor, *, grad_sq: Tensor) -> Tensor:
    """Score weights by the second-order rise of the loss without them.

    Optimal brain damage, with the diagonal of the empirical Fisher information in
    place of the Hessian's.

    Parameters
    ----------
    weight, grad_sq : Tensor of shape (out, in, ...)
        The weights of one layer, and the mean over rows of the squared gradient of
        each row's loss.

    Returns
    -------
    scores : Tensor of the same shape
        ``w ** 2 * E[g ** 2] / 2``.

    References
    ----------
    LeCun, Denker and Solla 1990, "Optimal Brain Damage", equation 5; Theis et al.
    2018, "Faster gaze prediction with dense networks and Fisher pruning", equation 8.

    Examples
    --------
    >>> fisher(torch.tensor([[2.0, -1.0]]), grad_sq=torch.tensor([[0.5, 4.0]]))
    tensor([[1., 2.]])
    """
    return weight.square() * grad_sq / 2


def wanda(weight: Tensor, *, input_norm: Tensor) -> Tensor:
    """Score weights by their size times the norm of their input.

    The paper ranks the weights of every output apart; here `allocation` decides.

    Parameters
    ----------
    weight : Tensor of shape (out, in, ...)
        The weights of one layer.
    input_norm : Tensor of shape (1, in, 1, ...)
        L2 norm over rows of each of the layer's inputs.

    Returns
    -------
    scores : Tensor of the weight's shape
        ``|w| * ||x||``.

    References
    ----------
    Sun et al. 2024, "A Simple and Effective Pruning Approach for Large Language
    Models", equation 1.

    Examples
    --------
    >>> wanda(torch.tensor([[2.0, -1.0]]), input_norm=torch.tensor([[0.5, 3.0]]))
    tensor([[1., 3.]])
    """
    return weight.abs() * input_norm


def apoz(weight: Tensor, *, activation_zeros: Tensor) -> Tensor:
    """Score neurons by the fraction of rows on which they are active.

    Parameters
    ----------
    weight : Tensor of shape (out, in, ...)
        The weights of one layer; only their shape is used.
    activation_zeros : Tensor of shape (out, 1, ...)
        Fraction of rows on which the neuron's activation is zero.

    Returns
    -------
    scores : Tensor of the weight's shape
        One minus the fraction, the same for all weights of a neuron.

    References
    ----------
    Hu et al. 2016, "Network Trimming", equation 1 (average percentage of zeros).

    Examples
    --------
    >>> apoz(torch.ones(1, 2), activation_zeros=torch.tensor([[0.75]]))
    tensor([[0.2500, 0.2500]])
    """
    return (1 - activation_zeros).expand(weight.shape)


apoz.scores_neurons = True  # type: ignore[attr-defined]


def fpgm(weight: Tensor) -> Tensor:
    """Score neurons by their distance to the layer's other neurons.

    Neurons near the geometric median can be replaced by the others.

    Parameters
    ----------
    weight : Tensor of shape (out, in, ...)
        The weights of one layer.

    Returns
    -------
    scores : Tensor of the same shape
        Sum of Euclidean distances to all neurons of the layer, the same for all
        weights of a neuron.

    References
    ----------
    He et al. 2019, "Filter Pruning via Geometric Median", equation 4.

    Examples
    --------
    >>> fpgm(torch.tensor([[0.0, 0.0], [3.0, 4.0]]))
    tensor([[5., 5.],
            [5., 5.]])
    """
    rows = weight.flatten(1)
    mode = "donot_use_mm_for_euclid_dist"  # the fast way gives 0 for near neighbours
    distances = torch.cdist(rows, rows, compute_mode=mode).sum(1)
    return distances.reshape(-1, *[1] * (weight.ndim - 1)).expand(weight.shape)


fpgm.scores_neurons = True  # type: ignore[attr-defined]
