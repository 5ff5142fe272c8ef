"""A checkpoint as a model of transformers."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from senmon import errors

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from senmon.types import CheckpointView


class Expert(NamedTuple):
    """A model that was loaded, and where it comes from."""

    model: "PreTrainedModel"  # In evaluation mode, on the CPU unless `device_map` says otherwise.
    tokenizer: "PreTrainedTokenizerBase"
    folder: Path  # A Hugging Face folder: `config.json`, `tokenizer.json`, `model.safetensors`.
    checkpoint: "CheckpointView"


def require_transformers() -> None:
    """Raises `MissingPackageError` where transformers is not installed: before gigabytes are fetched."""
    try:
        import transformers  # noqa: F401
    except ImportError as error:
        raise errors.MissingPackageError(
            "load_expert needs transformers and PyTorch: pip install 'senmon[transformers]'; download() needs neither"
        ) from error


def load(folder: Path, checkpoint: "CheckpointView", options: dict[str, Any]) -> Expert:
    """Loads a folder. Nothing of it is run as code."""
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=False, **options)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    return Expert(model.eval(), tokenizer, folder, checkpoint)


def cache_folder(id: str) -> Path:
    """Where a checkpoint is kept when no folder is named: below XDG_CACHE_HOME, or ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "senmon" / "checkpoints" / id
