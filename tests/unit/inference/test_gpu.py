"""Embedding, segmenting and scoring on a GPU give what the CPU gives."""

import numpy as np
import pytest
import torch

from hnet_ntv2.embedding import NamedSequence, embed_sequences
from hnet_ntv2.genome import Variant, encode, open_genome
from hnet_ntv2.segmentation import segment_sequences
from hnet_ntv2.variant_effect import score_variants
from tests.builders import random_letters, tiny_model

pytestmark = pytest.mark.gpu


def test_results_are_those_of_the_cpu(tmp_path):
    models = [tiny_model(spread=0.02), tiny_model(spread=0.02).to("cuda")]
    sequences = [NamedSequence("s", encode(random_letters(length, length).encode())) for length in (50, 300)]
    text = random_letters(200, 3)
    (tmp_path / "genome.fa").write_text(f">c\n{text}\n")
    genome = open_genome(tmp_path / "genome.fa", tmp_path / "cache")
    listed = [Variant(1, "c", 90, ".", text[90], other) for other in "ACGT" if other != text[90]]
    with torch.no_grad():
        means = [np.stack([each.vector for each in embed_sequences(model, sequences)]) for model in models]
        cuts = [[found.probability for _, found in segment_sequences(model, sequences)] for model in models]
        scores = [np.array(score_variants(model, genome, listed), float) for model in models]
    np.testing.assert_allclose(means[0], means[1], atol=1e-3)
    np.testing.assert_allclose(np.concatenate(cuts[0]), np.concatenate(cuts[1]), atol=1e-3)
    np.testing.assert_allclose(scores[0], scores[1], atol=1e-2)
