"""Training data: windows, masks, batches. Nothing is imported here, because Lightning is slow to import."""
