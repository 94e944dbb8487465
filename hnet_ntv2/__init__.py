"""HNet-NTv2: a DNA language model with learned chunks around the Nucleotide Transformer v2."""
