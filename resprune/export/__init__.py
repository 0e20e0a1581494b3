"""Writing networks for use elsewhere.

`resprune.export` is this package, and the function as well: ``resprune.export(chain, "model.onnx", "onnx")``.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _Callable(ModuleType):
    """The package under the name of its main function, since Python gives both one attribute."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        from resprune.export.exporting import export

        return export(*arguments, **options)


sys.modules[__name__].__class__ = _Callable
