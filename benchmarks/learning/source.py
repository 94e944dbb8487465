"""Train the source: an NTv2-shaped masked model over 6-mer tokens, saved in the published layout."""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from hnet_ntv2.base_embeddings import KmerEmbedding
from hnet_ntv2.configuration_ntv2 import NTv2Config
from hnet_ntv2.data.datamodule import HG38DataModule
from hnet_ntv2.kmers import kmer_marginals, source_token_ids
from hnet_ntv2.measuring import unmasked
from hnet_ntv2.modeling_ntv2 import NTv2ForMaskedLM
from hnet_ntv2.storage import open_text
from hnet_ntv2.tokenization_hnet_ntv2 import NTv2Tokenizer
from hnet_ntv2.training.checkpoint_format import read_checkpoint, write_checkpoint
from hnet_ntv2.training.optimizer import warmup_cosine
from hnet_ntv2.training.teachers import cut_tokens
from hnet_ntv2.vocabulary import SOURCE_CLS, source_vocab_size

from .setup import SourceSetup, clock, describe_device, on_device

K = 6
_EMBEDDING_STD = 0.5
_REPORT_EVERY = 50


class TokenBatch(NamedTuple):
    """A batch of windows as 6-mer tokens, ``<cls>`` first, padded on the right.

    Attributes:
        tokens: [batch, tokens] what the model sees.
        is_valid: [batch, tokens] False at padding.
        labels: [batch, tokens] the token at each target, -100 elsewhere.
        first_base: [batch, tokens] first base of each token; -1 for ``<cls>`` and padding.
    """

    tokens: Tensor
    is_valid: Tensor
    labels: Tensor
    first_base: Tensor

    def to(self, device: torch.device) -> "TokenBatch":
        """The batch on a device."""
        return TokenBatch(*(field.to(device) for field in self))


def token_batch(batch: Mapping[str, Tensor]) -> TokenBatch:
    """Cut windows into NTv2's tokens; a token is a target where its first base is one (masks lie on the grid)."""
    shown, labels = batch["input_ids"].long(), batch["labels"].long()
    clean = unmasked(batch).long()
    everywhere = torch.ones_like(shown, dtype=torch.bool)
    cut = cut_tokens(shown, everywhere, K)
    targets = source_token_ids(clean, everywhere, K).masked_fill(labels == -100, -100).gather(1, cut.first)
    front = cut.first.new_ones(len(cut.first), 1)
    return TokenBatch(
        tokens=torch.cat([front * SOURCE_CLS, cut.ids], 1),
        is_valid=torch.cat([front.bool(), cut.is_valid], 1),
        labels=torch.cat([front * -100, targets.masked_fill(~cut.is_whole, -100)], 1),
        first_base=torch.cat([front * -1, cut.first.masked_fill(~cut.is_valid, -1)], 1),
    )


def target_logits(model: NTv2ForMaskedLM, batch: TokenBatch) -> Tensor:
    """[targets, vocabulary] logits at the targets only, which saves most of the head's cost."""
    hidden = model.encode(batch.tokens, batch.is_valid).last_hidden_state
    return model.lm_head(hidden[batch.labels != -100])


def base_log_probs(model: NTv2ForMaskedLM, batch: Mapping[str, Tensor]) -> Tensor:
    """[batch, length, 4] marginal log-probabilities of A, C, G, T at the bases of masked tokens; 0 elsewhere."""
    tokens = token_batch(batch)
    marginals = kmer_marginals(target_logits(model, tokens.to(model.device)), K).cpu()
    is_target = tokens.labels != -100
    row = is_target.nonzero()[:, :1]
    columns = tokens.first_base[is_target][:, None] + torch.arange(K)
    result = torch.zeros(*batch["input_ids"].shape, 4)
    result[row.expand_as(columns), columns] = marginals
    return result


def build_source(setup: SourceSetup) -> NTv2ForMaskedLM:
    """A random source. Its k-mer vectors, in and out, are sums over letters, as the random ones of our model are."""
    torch.manual_seed(setup.seed)
    config = NTv2Config(
        vocab_size=source_vocab_size(K),
        hidden_size=setup.width,
        num_hidden_layers=setup.layers,
        num_attention_heads=setup.heads,
        intermediate_size=setup.intermediate,
    )
    model = NTv2ForMaskedLM(config)
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            # transformers' fixed 0.02 is too small for a narrow model: its blocks would start nearly silent.
            torch.nn.init.normal_(module.weight, std=module.in_features**-0.5)
            if module.bias is not None:
                torch.nn.init.zeros_(module.bias)
    with torch.no_grad():
        embedding, out = (KmerEmbedding(K, setup.width, std) for std in (_EMBEDDING_STD, setup.width**-0.5))
        model.esm.embeddings.word_embeddings.weight.copy_(embedding.weight)
        model.lm_head.decoder.weight.copy_(out.weight)
    return model


def train_source(
    setup: SourceSetup,
    data: HG38DataModule,
    folder: Path,
    *,
    accelerator: str,
    start: Path | None = None,
    cpu_seconds: float | None = None,
) -> dict:
    """Train and save the source; resumes from its last saved step if it was interrupted.

    Args:
        setup: Shape, steps, learning rate.
        data: Windows masked on the grid.
        folder: Gets ``source/`` and ``source.json``.
        accelerator: "cpu" or "cuda".
        start: Folder of weights to train on from, at a tenth of the learning rate.
        cpu_seconds: Train for about this long instead of ``setup.steps``; steps cost what those of ``start`` did.

    Returns:
        The content of ``source.json``: the cost of the source.
    """
    model = on_device(build_source(setup).train(), accelerator)
    # Norms and biases are scales and shifts: decay would pull them to zero without a gain.
    no_decay = [p for p in model.parameters() if p.dim() < 2]
    decay = [p for p in model.parameters() if p.dim() >= 2]
    groups = [{"params": decay, "weight_decay": 0.05}, {"params": no_decay, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=setup.learning_rate, betas=(0.9, 0.98))
    steps, rate = setup.steps, setup.learning_rate
    if start is not None:
        model.load_state_dict(NTv2ForMaskedLM.from_pretrained(start).state_dict())
        rate *= 0.1
    if cpu_seconds is not None:
        cost = json.loads((start.parent / "source.json").read_text(encoding="utf-8")) if start else None
        assert cost is not None
        steps = round(cpu_seconds * cost["steps"] / cost["cpu_seconds"])
    factor = warmup_cosine(steps, 0.05, 20.0)
    step, spent = _load_progress(folder, model, optimizer)
    data.set_position(step * setup.batch_size)  # a resumed training reads on where it stopped
    batches = _batches(data)
    recent: list[float] = []
    while step < steps:
        started = clock(accelerator)
        batch = token_batch(next(batches)).to(model.device)
        for group in optimizer.param_groups:
            group["lr"] = rate * factor(step)
        loss = F.cross_entropy(target_logits(model, batch), batch.labels[batch.labels != -100])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step, spent = step + 1, spent + clock(accelerator) - started
        recent.append(loss.item())
        if step % _REPORT_EVERY == 0:
            mean = sum(recent) / len(recent)
            print(f"source: step {step}/{steps}, {mean / math.log(2):.4f} bits per 6-mer, {spent:.0f} s", flush=True)
            recent.clear()
        if step % setup.checkpoint_every == 0:
            _save_progress(folder, model, optimizer, step, spent)
    cost = {
        "steps": step,
        "train_bases": step * setup.batch_size * data.seq_length,
        "cpu_seconds": spent,
        "device": describe_device(accelerator),
        "parameters": sum(p.numel() for p in model.parameters()),
        "layers": setup.layers,
        "width": setup.width,
    }
    _save_source(model, folder / "source")
    with open_text(folder / "source.json") as file:
        file.write(json.dumps(cost, indent=2) + "\n")
    return cost


def _batches(data: HG38DataModule) -> Iterator[Mapping[str, Tensor]]:
    yield from data.train_dataloader()


def _save_source(model: NTv2ForMaskedLM, folder: Path) -> None:
    model.save_pretrained(folder)
    NTv2Tokenizer(k=K).save_pretrained(folder)


def _progress_file(folder: Path) -> Path:
    return folder / "source_progress"


def _save_progress(folder: Path, model, optimizer, step: int, spent: float) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step, "spent": spent}
    write_checkpoint(state, _progress_file(folder))


def _load_progress(folder: Path, model, optimizer) -> tuple[int, float]:
    if not _progress_file(folder).exists():
        return 0, 0.0
    saved = read_checkpoint(_progress_file(folder))
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    return saved["step"], saved["spent"]
