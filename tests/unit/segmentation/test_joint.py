"""Joint segmentation: a table of junctions, and the same cuts whichever strand is given."""

import torch

from hnet_ntv2.conversion.calibrate import calibrate_routers
from hnet_ntv2.kmers import reverse_complement
from hnet_ntv2.segmentation.joint import joint_boundaries, joint_boundary_probability
from tests.builders import ids, random_dna, tiny_model, valid


def test_junctions_by_hand():
    is_valid = torch.tensor([[True, True, True, True, False]])
    forward = torch.tensor([[1.0, 0.1, 0.2, 0.3, 0.0]])  # junctions 0|1 1|2 2|3 at t = 1 2 3
    reverse = torch.tensor([[1.0, 0.7, 0.8, 0.9, 0.0]])  # the same junctions from the right: 2|3 1|2 0|1
    joint = joint_boundary_probability(forward, reverse, is_valid)
    assert torch.allclose(joint, torch.tensor([[1.0, (0.1 + 0.9) / 2, (0.2 + 0.8) / 2, (0.3 + 0.7) / 2, 0.0]]))


def test_both_strands_of_a_sequence_are_cut_alike(rng):
    model = tiny_model(spread=0.05)
    rows = ids("A" * 70, "A" * 50)
    rows[0], rows[1, :50] = random_dna(70, rng)[0], random_dna(50, rng)[0]
    is_valid = valid(rows)
    calibrate_routers(model.model, [rows])

    def cuts(input_ids):
        output = model(input_ids)
        return joint_boundaries(output.stages[0].probability, output.reverse_stages[0].probability, is_valid)

    here, there = cuts(rows), cuts(reverse_complement(rows, is_valid))
    for row, length in enumerate((70, 50)):
        junctions = set(here[row, 1:length].nonzero()[:, 0].add(1).tolist())
        mirrored = {length - t for t in there[row, 1:length].nonzero()[:, 0].add(1).tolist()}
        assert junctions == mirrored
        assert junctions
