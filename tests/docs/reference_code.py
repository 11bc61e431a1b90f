"""The module that writes reference pages, loaded from the documentation's own folder."""

import importlib.util
import sys
from typing import Any

from tests.docs.blocks import DOCS


def _load() -> Any:
    spec = importlib.util.spec_from_file_location("from_code", DOCS / "_ext" / "from_code.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their annotations up there
    spec.loader.exec_module(module)
    return module


from_code: Any = _load()
