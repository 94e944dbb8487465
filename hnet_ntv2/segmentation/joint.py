"""One segmentation from both strands: boundary probabilities averaged at the junctions between bases."""

import torch

from ..kmers import flip_rows
from ..shapes import Bool, Float, Shaped, Tensor


def joint_boundary_probability(
    forward: Float[Tensor, "batch length"],
    reverse: Float[Tensor, "batch length"],
    is_valid: Bool[Tensor, "batch length"],
) -> Float[Tensor, "batch length"]:
    """Mean of both strands' p at each junction (t-1|t), in the forward frame.

    Going backward, the junction between bases t-1 and t is crossed when base t-1 is reached: in the reverse frame of a
    row of n bases that is position n - t.

    Args:
        forward: p of the forward strand's first stage.
        reverse: p of the reverse-complement strand's first stage, in its own frame.
        is_valid: False at (right) padding, alike on both strands.

    Returns:
        Probability that base t begins a chunk; 1 at each row's first base, 0 at padding.
    """
    joint = (forward + at_forward_junctions(reverse, is_valid)) / 2
    joint[:, 0] = 1
    return joint.masked_fill(~is_valid, 0)


def at_forward_junctions(
    reverse: Shaped[Tensor, "batch length ..."], is_valid: Bool[Tensor, "batch length"]
) -> Shaped[Tensor, "batch length ..."]:
    """What the reverse strand says of each junction (t-1|t), at t; 1 at row starts, of which it says nothing."""
    # In the forward frame, position t of the mirrored array belongs to the junction (t|t+1): move it one to the right.
    mirrored = flip_rows(reverse, is_valid)
    return torch.cat([torch.ones_like(mirrored[:, :1]), mirrored[:, :-1]], dim=1)


def joint_boundaries(
    forward: Float[Tensor, "batch length"],
    reverse: Float[Tensor, "batch length"],
    is_valid: Bool[Tensor, "batch length"],
) -> Bool[Tensor, "batch length"]:
    """Boundaries where the joint probability exceeds one half."""
    return joint_boundary_probability(forward, reverse, is_valid) > 0.5
