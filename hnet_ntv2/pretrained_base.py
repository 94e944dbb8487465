"""What all HNet-NTv2 models have in common: how random weights are drawn, and how saved ones are loaded."""

from typing import Any

from torch import nn
from transformers import PreTrainedModel

from .base_embeddings import KmerEmbedding
from .chunking import Router
from .configuration_hnet_ntv2 import HNetNTV2Config
from .errors import WeightsError
from .heads import SourceHead
from .hierarchy import ChunkStage
from .model_files import check_before_loading

# Tensors of task heads, which another task's model may leave behind.
_HEAD_TENSORS = ("head.", "classifier.")

# Earlier versions kept F of the ratio loss in a buffer of this name. Files and checkpoints that hold it still load.
_FORMER_BUFFER = "boundary_shares"


class HNetNTV2PreTrainedModel(PreTrainedModel):
    """Initialisation and strict loading for all HNet-NTv2 models."""

    config_class = HNetNTV2Config
    config: HNetNTV2Config
    base_model_prefix = "model"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    # forward() takes **keywords, which would make Trainer divide the loss by a number that it passes in them.
    accepts_loss_kwargs = False
    _keys_to_ignore_on_load_unexpected = [rf"^{_FORMER_BUFFER}$"]  # noqa: RUF012  (the base class declares a plain list)
    _no_split_modules = ["NTv2Block", "LocalBlock"]  # noqa: RUF012  (the base class declares a plain list)

    def _init_weights(self, module: nn.Module) -> None:
        """Random weights; what is marked ``starts_at_zero`` (encoder outputs, skips, base embedding) starts at zero.

        The base class calls this only for modules that own parameters, children first.
        """
        if getattr(module, "starts_at_zero", False):
            for parameter in module.parameters(recurse=False):
                nn.init.zeros_(parameter)
        elif isinstance(module, Router | KmerEmbedding):
            module.reset_parameters()
        elif isinstance(module, nn.Linear | nn.Conv1d):
            inputs = module.weight[0].numel()
            nn.init.normal_(module.weight, std=self.config.initializer_gain * inputs**-0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
        elif isinstance(module, nn.RMSNorm):
            nn.init.ones_(module.weight)
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, SourceHead):
            nn.init.zeros_(module.bias)
        elif isinstance(module, ChunkStage) and module.widening is not None:
            nn.init.zeros_(module.widening)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *model_args, **kwargs) -> Any:
        """Load a saved model; safetensors only, and a missing, superfluous or misshapen tensor is an error.

        The only tensors that may be missing are those of a new task head (``classifier.``), and the only ones that may
        be left over are those of another task's head. With ``ignore_mismatched_sizes=True`` misshapen ones start anew.

        Raises:
            WeightsError: With the names of the tensors that do not fit, or as ``check_before_loading``.
            ConfigError: A setting in ``config.json`` that cannot be.
        """
        wants_info = kwargs.pop("output_loading_info", False)
        kwargs["use_safetensors"] = True
        check_before_loading(pretrained_model_name_or_path, HNetNTV2Config, kwargs)
        accepts_misshapen = kwargs.pop("ignore_mismatched_sizes", False)
        kwargs["ignore_mismatched_sizes"] = True  # so that the names come back and can be reported
        loaded: Any = super().from_pretrained(
            pretrained_model_name_or_path, *model_args, output_loading_info=True, **kwargs
        )
        model, info = loaded
        problems = {
            "missing": [name for name in info["missing_keys"] if not name.startswith("classifier.")],
            "superfluous": [name for name in info["unexpected_keys"] if not name.startswith(_HEAD_TENSORS)],
            "misshapen": [] if accepts_misshapen else [str(entry) for entry in info["mismatched_keys"]],
        }
        found = [f"{kind}: {', '.join(sorted(names)[:5])}" for kind, names in problems.items() if names]
        if found:
            raise WeightsError(f"{pretrained_model_name_or_path} does not fit {cls.__name__}; {'; '.join(found)}")
        return (model, info) if wants_info else model


def drop_former_buffer(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """A hook before ``load_state_dict``, which is strict about names and does not read the class's ignored keys."""
    state.pop(prefix + _FORMER_BUFFER, None)
