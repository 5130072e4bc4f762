"""Annotations name pictures of their folder, and no others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from onnxgraft.errors import InputError
from onnxgraft.evaluation.truth import from_files


@pytest.mark.parametrize("name", ["../secret.png", "/etc/hostname", "link.png", "", "a\0b"])
def test_pictures_lie_in_their_folder(name: str, tmp_path: Path) -> None:
    (tmp_path / "secret.png").touch()
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "link.png").symlink_to(tmp_path / "secret.png")
    content = {"images": [{"id": 1, "file_name": name}], "annotations": [], "categories": []}
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"a\.json: .* (lies outside|is no usable path)"):
        from_files(tmp_path / "pictures", tmp_path / "a.json")
