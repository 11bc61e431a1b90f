"""`open_model`: one way in for the embedded model, directories, hub names and GGUF files."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from . import embedded
from .backends import drive
from .digest import files_digest
from .errors import DamagedModelError, ModelNotFoundError, OptionError, UnsafeModelError
from .families import FAMILIES
from .gguf import convert_gguf, is_gguf, without_progress_bars
from .memory import require_bytes
from .model import Backend, Model
from .modelcache import converted
from .selfcheck import check_sites
from .structure import build_sites

WEIGHTS = "model*.safetensors"
"""What transformers loads from a directory; adapters and other formats beside it do not count."""
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def open_model(
    name: str | Path | None = None,
    *,
    backend: Backend = "transformers",
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    attn_implementation: str | None = None,
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
    check: bool = True,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
) -> Model:
    """Open a causal language model.

    The first opening of a GGUF file (the embedded model is one) converts it and keeps the result;
    later openings take about a second. Opening ends with a self-check of the sites.

    Args:
        name: A local directory, a GGUF file, or a hub name; None for the embedded
            SmolLM2-135M-Instruct.
        backend: "transformers", "transformer_lens" (its bridge) or "nnsight"; the sites and their
            values are the same.
        device: Where to put the weights; None takes a GPU where there is one.
        dtype: Data type of the weights; None takes float32 on the CPU and the checkpoint's own on
            a GPU.
        attn_implementation: "sdpa", "eager", ...; None takes the model's default.
        trust_remote_code: Whether code that comes with the checkpoint may run.
        allow_pickle: Whether pickled weights may be loaded; they can run code too.
        check: Whether to check the sites against the model's own hidden states.
        revision: Branch, tag or commit of a hub model.
        cache_dir: Where conversions are kept; None for $FLUOROSCOPE_CACHE or the user's cache.

    Raises:
        ModelNotFoundError: Nothing by that name here, and no hub within reach.
        MissingPackageError: The embedded model's package, or the backend's, is not installed.
        UnsafeModelError: The checkpoint is pickled or brings code, and that was not asked for.
        DamagedModelError: Files are cut short or fail their digest.
        NotEnoughMemoryError: The weights do not fit.
        UnsupportedArchitectureError: No site mapping passes the self-check.
        SiteCheckError: A listed architecture fails it.
    """
    chosen = choose_device(device)
    kind = _dtype(dtype)
    folder, title, digest, licence = _locate(
        name, cache_dir, revision, trust_remote_code=trust_remote_code, allow_pickle=allow_pickle
    )
    if kind is None and chosen.type == "cpu":
        kind = torch.float32
    _require_memory(folder, kind, chosen, title)
    module, tokenizer = _load(
        folder,
        kind,
        attn_implementation,
        trust_remote_code=trust_remote_code,
        allow_pickle=allow_pickle,
    )
    module.to(chosen)  # type: ignore[arg-type]
    module.eval()
    model = drive(
        module, tokenizer, backend=backend, name=title, weights_digest=digest, licence=licence
    )
    if check:
        check_sites(model)
    return model


def wrap_model(
    module: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    name: str = "model",
    check: bool = True,
) -> Model:
    """Look inside a module that is already in hand, as it is.

    Args:
        module: A Hugging Face causal language model.
        tokenizer: Its tokenizer, if text is to be used.
        name: What to call it.
        check: Whether to check the sites.

    Raises:
        UnsupportedArchitectureError: No site mapping passes the self-check.
        SiteCheckError: A listed architecture fails it.
    """
    model = Model(module, tokenizer, build_sites(module), name=name)
    if check:
        check_sites(model)
    return model


def _locate(
    name: str | Path | None,
    cache_dir: str | Path | None,
    revision: str | None,
    *,
    trust_remote_code: bool,
    allow_pickle: bool,
) -> tuple[Path, str, str | None, str | None]:
    """Folder to load from, title, weights digest if known, licence if known."""
    if name is None:
        source = embedded.embedded_gguf()
        folder, cached = converted(
            source,
            embedded.NAME,
            lambda target: convert_gguf(source, target),
            expected_digest=embedded.SHA256,
            cache_dir=cache_dir,
        )
        return folder, embedded.NAME, cached.weights_digest, embedded.LICENCE
    path = Path(name).expanduser()
    if path.is_file():
        if not is_gguf(path):
            raise ModelNotFoundError(
                f"{path.name} must be a GGUF file or a model directory; it does not start with the "
                "GGUF magic. Give the directory that holds config.json instead."
            )
        folder, cached = converted(
            path, path.stem, lambda target: convert_gguf(path, target), cache_dir=cache_dir
        )
        return folder, path.stem, cached.weights_digest, None
    title = path.name if path.is_dir() else str(name)
    folder = path if path.is_dir() else _from_hub(str(name), revision, allow_pickle=allow_pickle)
    _refuse_unsafe(folder, trust_remote_code=trust_remote_code, allow_pickle=allow_pickle)
    weights = [*folder.glob(WEIGHTS)]
    return folder, title, files_digest(weights) if weights else None, None


def _from_hub(name: str, revision: str | None, *, allow_pickle: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    patterns = ["*.safetensors", "*.json", "*.model", "*.txt", "*.jinja", "*.py"]
    patterns += list(PICKLES) if allow_pickle else []
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    except (LocalEntryNotFoundError, HFValidationError, OSError, ValueError) as error:
        raise ModelNotFoundError(
            f"No model {name!r}: there is no such directory or GGUF file, and the hub gave nothing "
            f"({type(error).__name__}; HF_HUB_OFFLINE=1 forbids asking it). Give a local directory, "
            "check the name, or leave the name out for the embedded model."
        ) from error


def _refuse_unsafe(folder: Path, *, trust_remote_code: bool, allow_pickle: bool) -> None:
    config = folder / "config.json"
    if not config.is_file():
        raise ModelNotFoundError(
            f"{folder.name} must hold config.json and safetensors; there is no config.json. Give the "
            "directory that `save_pretrained` wrote."
        )
    files = [folder / "tokenizer_config.json"]
    if not _is_ours(_settings(config)):
        files.append(config)
    brings_code = any("auto_map" in _settings(file) for file in files if file.is_file())
    if brings_code and not trust_remote_code:
        raise UnsafeModelError(
            f"{folder.name} brings its own code, which would run on this machine. Read it, "
            "then ask for it by name: open_model(..., trust_remote_code=True)."
        )
    if any(folder.glob(WEIGHTS)) or allow_pickle:
        return
    if any(next(folder.glob(pattern), None) for pattern in PICKLES):
        raise UnsafeModelError(
            f"{folder.name} holds pickled weights only, and loading a pickle can run code. Convert "
            "them to safetensors, or ask for it by name: open_model(..., allow_pickle=True)."
        )
    raise ModelNotFoundError(f"{folder.name} holds no weights ({WEIGHTS}).")


def _is_ours(config: dict[str, Any]) -> bool:
    """Whether a room defines the architecture; it is imported, so that transformers knows it.

    Code that came along with such a checkpoint, for readers without this package, does not run.
    """
    family = FAMILIES.get(str(config.get("model_type")))
    if family is None or not family.home:
        return False
    importlib.import_module(f"..{family.home}", __package__)
    return True


def _settings(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text())
    except ValueError as error:
        raise DamagedModelError(f"{file.parent.name}/{file.name} is no JSON: {error}.") from error


def _load(
    folder: Path,
    dtype: torch.dtype | None,
    attention: str | None,
    *,
    trust_remote_code: bool,
    allow_pickle: bool,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase | None]:
    from safetensors import SafetensorError

    options: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    try:
        with without_progress_bars():
            module = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=dtype or "auto",
                attn_implementation=attention,
                use_safetensors=None if allow_pickle else True,
                **options,
            )
    except SafetensorError as error:
        raise DamagedModelError(
            f"The weights in {folder.name} cannot be read ({error}); a file is cut short or damaged. "
            "Fetch or save the model again."
        ) from error
    has_tokenizer = any(folder.glob("tokenizer*")) or any(folder.glob("*.model"))
    tokenizer = AutoTokenizer.from_pretrained(folder, **options) if has_tokenizer else None
    return module, tokenizer


def _require_memory(
    folder: Path, dtype: torch.dtype | None, device: torch.device, title: str
) -> None:
    # The plain JSON: AutoConfig would ask on the terminal before reading one that brings code.
    weights = [*folder.glob(WEIGHTS)] or [path for kind in PICKLES for path in folder.glob(kind)]
    stored = sum(path.stat().st_size for path in weights)
    settings = _settings(folder / "config.json")
    kept = getattr(torch, str(settings.get("dtype") or settings.get("torch_dtype")), None)
    growth = dtype.itemsize / kept.itemsize if dtype and isinstance(kept, torch.dtype) else 1.0
    require_bytes(int(stored * growth), device, title)


def choose_device(device: str | torch.device | None) -> torch.device:
    """The device asked for; if none was, a GPU if there is one.

    Raises:
        OptionError: There is no such device.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise OptionError(f"device must be like 'cpu' or 'cuda:0', got {device!r}.") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise OptionError(f"device {device} asked for, but torch sees no GPU; use device='cpu'.")
    return chosen


def _dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    if dtype is None or isinstance(dtype, torch.dtype):
        return dtype
    found = getattr(torch, dtype, None)
    if not (isinstance(found, torch.dtype) and found.is_floating_point):
        raise OptionError(f"dtype must be float32, bfloat16, float16 or float64, got {dtype!r}.")
    return found
