"""Does a start from a 6-mer model learn faster? Trains the source, the arms and the baselines, and compares them."""
