"""The key table: the place in our model of each tensor of a published NTv2 file, or the reason why it has none."""

from collections.abc import Sequence

import torch

from ..backbone import NTv2Block
from ..errors import WeightsError

# Below ``esm.encoder.layer.{i}.`` in the source and below ``blocks.{j}.`` in our trunk: our block has NTv2's own names.
with torch.device("meta"):
    BLOCK_KEYS = tuple(NTv2Block(dim=2, num_heads=1, intermediate_size=1, layer_norm_eps=1e-12).state_dict())

# Outside the blocks; {trunk} is the path of our trunk, which depends on the number of stages.
SINGLE_KEYS = {
    "esm.embeddings.word_embeddings.weight": "model.embeddings.kmer.weight",
    "esm.encoder.emb_layer_norm_after.weight": "{trunk}.final_norm.weight",
    "esm.encoder.emb_layer_norm_after.bias": "{trunk}.final_norm.bias",
    "lm_head.dense.weight": "head.source.dense.weight",
    "lm_head.dense.bias": "head.source.dense.bias",
    "lm_head.layer_norm.weight": "head.source.layer_norm.weight",
    "lm_head.layer_norm.bias": "head.source.layer_norm.bias",
    "lm_head.decoder.weight": "head.source.decoder.weight",
    "lm_head.bias": "head.source.bias",
}

# Stored in published files and used by no forward pass; by the end of the name.
UNUSED_KEYS = {
    "embeddings.position_embeddings.weight": "positions are rotary; the table is stored but not used",
    "contact_head.regression.weight": "the contact head is stored but not used",
    "contact_head.regression.bias": "the contact head is stored but not used",
    "rotary_embeddings.inv_freq": "a buffer that is computed; its values were compared",
}

BLOCK_PREFIX = "esm.encoder.layer."

# Zero in a graft, random in a random model: the head's residual branch starts at 0, so the logits are the source's.
ZEROED_KEYS = ("head.residual.output.weight", "head.residual.output.bias")


def destination(name: str, layers: Sequence[int], num_stages: int) -> tuple[str | None, str]:
    """The place of one source tensor in our model.

    Args:
        name: Key in the source's files.
        layers: Source blocks that are kept, in order; block ``layers[j]`` becomes block j of the trunk.
        num_stages: Of our model.

    Returns:
        The key in our model, or None, and the reason: "copied", or why it is not.

    Raises:
        WeightsError: The key is not in the table.
    """
    # By the ending: the rotary buffer stands in every block.
    for ending, reason in UNUSED_KEYS.items():
        if name.endswith(ending):
            return None, reason
    for target, source in copied_targets(layers, num_stages).items():
        if source == name:
            return target, "copied"
    number, _, key = name.removeprefix(BLOCK_PREFIX).partition(".")
    if name.startswith(BLOCK_PREFIX) and number.isdigit() and key in BLOCK_KEYS:
        return None, f"block {number} is not among the chosen layers"
    raise WeightsError(f"the source tensor {name!r} is not in the key table; is this a Nucleotide Transformer v2?")


def copied_targets(layers: Sequence[int], num_stages: int) -> dict[str, str]:
    """Every tensor of our model that must come from the source, with the source's key."""
    trunk = "model.hierarchy" + ".main" * num_stages + ".layers"
    targets = {target.format(trunk=trunk): name for name, target in SINGLE_KEYS.items()}
    for place, layer in enumerate(layers):
        targets |= {f"{trunk}.blocks.{place}.{key}": f"{BLOCK_PREFIX}{layer}.{key}" for key in BLOCK_KEYS}
    return targets
