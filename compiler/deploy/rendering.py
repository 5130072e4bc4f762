"""What packages are written with: templates beside this file, filled in or as they are."""

from __future__ import annotations

from importlib.resources import files as resources
from pathlib import Path
from typing import Any

import jinja2

from onnxgraft.deploy.build import Packed

_TEMPLATES = resources("onnxgraft.deploy") / "templates"
_ENVIRONMENT = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False)


def render(template: str, path: Path, packed: Packed, **more: Any) -> None:
    """Write a file of a template.

    Args:
        template: its place among the templates, such as "cpp/README.md.j2".
        path: the file.
        packed: the build, whose name, source, target, inputs and outputs each template knows.
        more: what else this one knows.
    """
    text = _ENVIRONMENT.from_string((_TEMPLATES / template).read_text()).render(
        name=packed.name, source=" ".join(Path(packed.manifest.source.model).name.split()), target=packed.manifest.target,
        inputs=packed.inputs, outputs=packed.outputs, is_engine=packed.is_engine, **more,
    )  # fmt: skip
    path.write_text(text)


def copy(template: str, path: Path) -> None:
    """Write a file as it stands among the templates."""
    path.write_text((_TEMPLATES / template).read_text())


def as_cpp(text: str) -> str:
    """A text as a literal of C++ in plain ASCII, whatever it holds."""
    inner = "".join(
        chr(b) if 32 <= b < 127 and chr(b) not in '"\\?' else f"\\{b:03o}" for b in text.encode("utf-8", "surrogatepass")
    )
    return f'"{inner}"'


_ENVIRONMENT.filters["cpp"] = as_cpp
