"""The part of the model and the learning-rate group of a parameter, from its name."""

# The groups that hold what comes from NTv2.
GRAFTED_GROUPS = ("trunk", "kmer_embedding", "source_head")


def parameter_group(name: str) -> str:
    """Learning-rate group of a parameter of ``HNetNTV2ForMaskedLM`` by its name.

    "base" for base-resolution parts and the residual head, "stage1" for the layers over stage-1 chunks (and "stage2"
    where there are three stages), "trunk" for NTv2's blocks, "kmer_embedding" and "source_head" for what else comes
    from it.
    """
    if name.startswith("model.embeddings.kmer."):
        return "kmer_embedding"
    if name.startswith("head.source."):
        return "source_head"
    depth = name.removeprefix("model.hierarchy.").count("main.")
    if ".layers.blocks." in name or ".layers.final_norm." in name:
        return "trunk"
    return f"stage{depth}" if depth else "base"


def parameter_part(name: str) -> str:
    """Readable part of the model that a parameter of ``HNetNTV2ForMaskedLM`` belongs to."""
    if not name.startswith("model.hierarchy."):
        return {"model.embeddings.base": "base embedding", "model.embeddings.kmer": "k-mer embedding"}.get(
            name.rsplit(".", 1)[0], "source head" if name.startswith("head.source.") else "residual head"
        )
    group = parameter_group(name)
    if group == "trunk":
        return "trunk"
    depth = name.removeprefix("model.hierarchy.").count("main.")
    part = name.removeprefix("model.hierarchy.").replace("main.", "").split(".")[0]
    return f"stage {depth + 1} {part}"
