"""HNet-NTv2: a DNA language model with learned chunks around the Nucleotide Transformer v2.

Importing the package registers its classes with ``AutoConfig``, ``AutoModel``, ``AutoModelForMaskedLM``,
``AutoModelForSequenceClassification``, ``AutoModelForTokenClassification`` and ``AutoTokenizer``.

The verbs of the command line are functions here: ``hnet_ntv2.embed(["ACGT"])``. They stand in ``hnet_ntv2.api``.
"""

import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME_OF = {
    "HNetNTV2Config": "configuration_hnet_ntv2",
    "HNetNTV2ForMaskedLM": "modeling_hnet_ntv2",
    "HNetNTV2ForSequenceClassification": "modeling_hnet_ntv2",
    "HNetNTV2ForTokenClassification": "modeling_hnet_ntv2",
    "HNetNTV2Model": "modeling_hnet_ntv2",
    "HNetNTV2Tokenizer": "tokenization_hnet_ntv2",
    "NTv2Config": "configuration_ntv2",
    "NTv2ForMaskedLM": "modeling_ntv2",
    "NTv2ForSequenceClassification": "modeling_ntv2",
    "NTv2Tokenizer": "tokenization_hnet_ntv2",
    **dict.fromkeys(("embed", "evaluate", "finetune", "load", "predict", "score_variants", "segment"), "api"),
}

__all__ = ["__version__", *_HOME_OF]

if TYPE_CHECKING:
    from .api import embed as embed
    from .api import evaluate as evaluate
    from .api import finetune as finetune
    from .api import load as load
    from .api import predict as predict
    from .api import score_variants as score_variants
    from .api import segment as segment
    from .configuration_hnet_ntv2 import HNetNTV2Config as HNetNTV2Config
    from .configuration_ntv2 import NTv2Config as NTv2Config
    from .modeling_hnet_ntv2 import HNetNTV2ForMaskedLM as HNetNTV2ForMaskedLM
    from .modeling_hnet_ntv2 import HNetNTV2ForSequenceClassification as HNetNTV2ForSequenceClassification
    from .modeling_hnet_ntv2 import HNetNTV2ForTokenClassification as HNetNTV2ForTokenClassification
    from .modeling_hnet_ntv2 import HNetNTV2Model as HNetNTV2Model
    from .modeling_ntv2 import NTv2ForMaskedLM as NTv2ForMaskedLM
    from .modeling_ntv2 import NTv2ForSequenceClassification as NTv2ForSequenceClassification
    from .tokenization_hnet_ntv2 import HNetNTV2Tokenizer as HNetNTV2Tokenizer
    from .tokenization_hnet_ntv2 import NTv2Tokenizer as NTv2Tokenizer


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOME_OF[name]}", __name__), name)


def register_auto_classes() -> None:
    """Make the Auto classes of transformers know this package's model types."""
    from transformers import (
        AutoConfig,
        AutoModel,
        AutoModelForMaskedLM,
        AutoModelForSequenceClassification,
        AutoModelForTokenClassification,
        AutoTokenizer,
    )

    from .configuration_hnet_ntv2 import HNetNTV2Config
    from .configuration_ntv2 import NTv2Config
    from .modeling_hnet_ntv2 import (
        HNetNTV2ForMaskedLM,
        HNetNTV2ForSequenceClassification,
        HNetNTV2ForTokenClassification,
        HNetNTV2Model,
    )
    from .modeling_ntv2 import NTv2ForMaskedLM, NTv2ForSequenceClassification
    from .tokenization_hnet_ntv2 import HNetNTV2Tokenizer, NTv2Tokenizer

    AutoConfig.register(HNetNTV2Config.model_type, HNetNTV2Config, exist_ok=True)
    AutoModel.register(HNetNTV2Config, HNetNTV2Model, exist_ok=True)
    AutoModelForMaskedLM.register(HNetNTV2Config, HNetNTV2ForMaskedLM, exist_ok=True)
    AutoModelForSequenceClassification.register(HNetNTV2Config, HNetNTV2ForSequenceClassification, exist_ok=True)
    AutoModelForTokenClassification.register(HNetNTV2Config, HNetNTV2ForTokenClassification, exist_ok=True)
    AutoTokenizer.register(HNetNTV2Config, slow_tokenizer_class=HNetNTV2Tokenizer, exist_ok=True)
    # What our ``save_pretrained`` wrote; a published NTv2 folder calls itself ESM, which transformers has a class for.
    AutoConfig.register(NTv2Config.model_type, NTv2Config, exist_ok=True)
    AutoModelForMaskedLM.register(NTv2Config, NTv2ForMaskedLM, exist_ok=True)
    AutoModelForSequenceClassification.register(NTv2Config, NTv2ForSequenceClassification, exist_ok=True)
    AutoTokenizer.register(NTv2Config, slow_tokenizer_class=NTv2Tokenizer, exist_ok=True)


def _is_command_line() -> bool:
    """Whether this process is the ``hnet-ntv2`` command, or ``python -m hnet_ntv2...``.

    While ``python -m MODULE`` imports a package, ``sys.argv[0]`` is "-m", and MODULE stands in ``sys.orig_argv`` in
    front of the arguments.
    """
    program = sys.argv[0] if sys.argv else ""  # an embedded interpreter may have none
    if program == "-m":
        return sys.orig_argv[-len(sys.argv)].removeprefix("-m").split(".")[0] == __name__
    return Path(program).name == "hnet-ntv2"


# The command line imports what a verb needs when it runs: `hnet-ntv2 --help` must not wait seconds for torch.
if not _is_command_line():
    register_auto_classes()
