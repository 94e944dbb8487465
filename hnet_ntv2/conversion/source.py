"""The source model's files: find or download them, check them, and read one tensor at a time."""

import errno
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from safetensors import SafetensorError, safe_open

from ..configuration_ntv2 import NTv2Config
from ..errors import ConfigError, WeightsError
from ..model_files import INDEX, WEIGHTS, require_finite, shard_names, weight_files
from ..modeling_ntv2 import published_key_shapes, require_layout
from ..shapes import Tensor
from ..tokenization_hnet_ntv2 import NTv2Tokenizer
from ..vocabulary import source_kmer_size, source_vocab_size
from . import DEFAULT_SOURCE
from .stored import StoredTensor, read_headers

logger = logging.getLogger(__name__)

ROPE_THETA = 10000.0
_MOST_VOCABULARY_BYTES = 1 << 24  # 4,107 6-mers take 28 kB
_HUB_NAME = re.compile(r"[\w][\w.-]*/[\w][\w.-]*")
_COMMIT = re.compile(r"[0-9a-f]{40}")
# Errors of the disk among those of the download: a cached copy would not help.
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)
_TORCH_TYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@dataclass(frozen=True)
class NTv2Source:
    """A checked source model on disk.

    Attributes:
        name: Hub name, or the name of a local folder.
        revision: Commit on the Hub; None for a folder outside the Hub's cache.
        is_local: Whether it was given as a folder.
        config: Its settings.
        kmer_size: k of its tokens.
        stored: All its tensors by name.
    """

    name: str
    revision: str | None
    is_local: bool
    config: NTv2Config
    kmer_size: int
    stored: dict[str, StoredTensor]

    def get(self, name: str) -> Tensor:
        """Read one tensor, in the type of the file; nothing else is kept in memory.

        Raises:
            WeightsError: It cannot be read, or holds NaN or infinity.
        """
        path = self.stored[name].path
        try:
            with safe_open(path, framework="pt") as file:
                tensor = file.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise WeightsError(f"{path}: {name!r} cannot be read ({error}); download the file again") from error
        require_finite(name, tensor, path)
        return tensor

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Names and tensors, each read when it is asked for."""
        return ((name, self.get(name)) for name in self.stored)


def open_source(name_or_folder: str, revision: str | None = None) -> NTv2Source:
    """Find a source model by folder or Hub name, and check its files; of the values only the rotary frequencies.

    Args:
        name_or_folder: A local folder, or a name on the Hugging Face Hub. Only ``config.json``, the vocabulary and
            safetensors are read or downloaded; remote code never runs.
        revision: Branch, tag or commit on the Hub; its main branch by default.

    Raises:
        WeightsError: No such folder or model, no network, no safetensors, or a tensor that is missing, superfluous or
            of another shape (named).
        ConfigError: Settings that are not implemented, or a revision for a local folder.
        InputError: A vocabulary file that is not NTv2's.
    """
    # A folder wins over a Hub name of the same spelling, as in transformers.
    folder = Path(name_or_folder).expanduser()
    if folder.is_dir():
        if revision is not None:
            raise ConfigError(f"--revision {revision} says nothing about the local folder {folder}; leave it out")
        resolved = folder.resolve()
        # In the Hub's own cache a snapshot is named by its commit.
        is_snapshot = resolved.parent.name == "snapshots" and _COMMIT.fullmatch(resolved.name)
        return read_folder(folder, resolved.name, resolved.name if is_snapshot else None, is_local=True)
    if not _HUB_NAME.fullmatch(name_or_folder):
        raise WeightsError(f"{name_or_folder!r} is neither a folder nor a Hub name such as {DEFAULT_SOURCE}")
    folder, commit = download(name_or_folder, revision)
    return read_folder(folder, name_or_folder, commit, is_local=False)


def read_folder(folder: Path, name: str, revision: str | None, *, is_local: bool) -> NTv2Source:
    """Check the files of a folder: settings, vocabulary, names, shapes and types of all tensors, rotary frequencies.

    Raises:
        WeightsError, ConfigError, InputError: As ``open_source``.
    """
    files = weight_files(folder)
    if not (folder / "config.json").is_file():
        raise WeightsError(f"{folder} holds no config.json; give the folder of a downloaded NTv2 model")
    config = NTv2Config.from_json_file(folder / "config.json")
    stored = read_headers(files)
    # On "meta": names, shapes and types without the values; int8 stands for any type that is refused.
    outlines = {
        key: torch.empty(tensor.shape, dtype=_TORCH_TYPES.get(tensor.dtype, torch.int8), device="meta")
        for key, tensor in stored.items()
    }
    require_layout(published_key_shapes(config), outlines, folder)
    source = NTv2Source(name, revision, is_local, config, _kmer_size(folder, config), stored)
    _check_rotary(source)
    return source


def _kmer_size(folder: Path, config: NTv2Config) -> int:
    """k from the vocabulary's size; ``vocab.txt``, if there is one, must hold k-mers of that k in NTv2's order."""
    size = source_kmer_size(config.vocab_size)
    if source_vocab_size(size) != config.vocab_size:
        raise ConfigError(f"{folder / 'config.json'}: vocab_size={config.vocab_size} is not 4^k + 11 for any k")
    vocabulary = folder / "vocab.txt"
    if vocabulary.is_file() and vocabulary.stat().st_size > _MOST_VOCABULARY_BYTES:
        raise ConfigError(f"{vocabulary} has {vocabulary.stat().st_size:,} bytes, more than any vocabulary needs")
    if vocabulary.is_file() and (found := NTv2Tokenizer(vocab_file=vocabulary).k) != size:
        raise ConfigError(f"{vocabulary} holds {found}-mers, but vocab_size={config.vocab_size} is that of {size}-mers")
    return size


def _check_rotary(source: NTv2Source) -> None:
    """Check that stored rotary frequencies are those of base 10000, which our blocks compute.

    Raises:
        WeightsError: They are not.
    """
    head_dim = source.config.hidden_size // source.config.num_attention_heads
    expected = ROPE_THETA ** -(torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    for name in source.stored:
        if name.endswith("rotary_embeddings.inv_freq"):
            stored = source.get(name).double()
            # 1 %: room for files in half precision.
            if not torch.allclose(stored, expected, rtol=1e-2, atol=1e-6):
                raise WeightsError(
                    f"{name} holds other rotary frequencies than those of base {ROPE_THETA:g}, which is not implemented"
                )


def download(name: str, revision: str | None) -> tuple[Path, str]:
    """Download a model's settings, vocabulary and safetensors into the Hub's cache; an interrupted download goes on.

    Returns:
        The folder, and the commit that was fetched.

    Raises:
        WeightsError: No such model or revision, no safetensors in it, or no network and nothing in the cache.
    """
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    # The base class of the HTTP library's errors: which library it is depends on the version of huggingface_hub.
    http_error = cast(type[Exception], HfHubHTTPError.__bases__[0])
    place = f"{name} at revision {revision or 'main'}"
    try:
        info = HfApi().model_info(name, revision=revision)
        present = {entry.rfilename for entry in info.siblings or ()}
        commit = str(info.sha)
        wanted = files_to_fetch(present, place)
        if INDEX in wanted:
            index = Path(hf_hub_download(name, INDEX, revision=commit))
            wanted += shard_names(index)
        # By the commit: a branch can move between two of the files.
        paths = [Path(hf_hub_download(name, file, revision=commit)) for file in wanted]
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise WeightsError(f"{place} is not on the Hugging Face Hub, or not public: {_first_line(error)}") from error
    except (OSError, http_error) as error:
        if getattr(error, "errno", None) in _DISK_ERRORS:
            raise WeightsError(
                f"{place} cannot be stored: {error}; make room, or move the cache with HF_HOME"
            ) from error
        return _cached(name, revision, error)
    snapshot, branch = paths[0].parent, revision or "main"
    if snapshot.parent.name == "snapshots" and branch != commit:
        # The Hub's library notes no branch for files that are fetched by commit; without a network it needs the note.
        reference = snapshot.parent.parent / "refs" / branch
        reference.parent.mkdir(parents=True, exist_ok=True)
        reference.write_text(commit, encoding="utf-8")
    return snapshot, commit


def files_to_fetch(present: set[str], place: str) -> list[str]:
    """The files of a model to download, but for the shards that an index names.

    Args:
        present: Names of all its files.
        place: Model and revision, for the error.

    Raises:
        WeightsError: There are no safetensors, or no ``config.json``.
    """
    if "config.json" not in present:
        raise WeightsError(f"{place} has no config.json; is it a Nucleotide Transformer v2?")
    # One of the two: a repository can hold both the whole file and its shards.
    weights = [name for name in (WEIGHTS, INDEX) if name in present][:1]
    if not weights:
        raise WeightsError(
            f"{place} has no safetensors, and pickles are never loaded; try --revision refs/pr/3 (for a teacher "
            "warm_start.teacher_revision=refs/pr/3), where nucleotide-transformer-v2-250m-multi-species has them"
        )
    return ["config.json", *(["vocab.txt"] if "vocab.txt" in present else []), *weights]


def _cached(name: str, revision: str | None, error: Exception) -> tuple[Path, str]:
    """A snapshot that was downloaded before, when the Hub cannot be reached."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(name, revision=revision, local_files_only=True))
        weight_files(folder)
    except (LocalEntryNotFoundError, OSError, WeightsError) as missing:
        raise WeightsError(
            f"{name} cannot be downloaded, there is no network or the Hub does not answer ({_first_line(error)}), and "
            "the cache does not hold it; without a network, download config.json, vocab.txt and the safetensors files "
            "elsewhere and give their folder: --ntv2-model DIR (for a teacher warm_start.teacher=DIR)"
        ) from missing
    logger.warning("the Hub does not answer; using the cached snapshot %s of %s", folder.name, name)
    return folder, folder.name


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0]
