"""Packages of requirements-extra.txt, which most work does not need."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from machine.errors import UserError

REQUIREMENTS = Path(__file__).resolve().parents[2] / "requirements-extra.txt"


def require(*modules: str) -> None:
    """Raise ``UserError`` with what to install unless these modules can be imported."""
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"expected the packages {', '.join(modules)}, found no {', '.join(missing)}; install "
            f"them with pip install -r {REQUIREMENTS}"
        )
