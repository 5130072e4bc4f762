"""What pyproject.toml cannot say: a package index shows the README outside the repository, so its links become addresses."""

from __future__ import annotations

import re
from pathlib import Path

from setuptools import setup

HERE = Path(__file__).resolve().parent


def for_an_index(readme: str, project: str) -> str:
    """The README with its links to files of the repository as addresses below the project's Source."""
    (source,) = re.findall(r'^Source = "(.*)"$', project, re.MULTILINE)
    readme = re.sub(r"!\[([^\]]*)\]\((?!https?:|#)", rf"![\1]({source}/raw/main/", readme)
    return re.sub(r"(?<!!)\[([^\]]*)\]\((?!https?:|#)", rf"[\1]({source}/blob/main/", readme)


if __name__ == "__main__":
    setup(
        long_description=for_an_index((HERE / "README.md").read_text(), (HERE / "pyproject.toml").read_text()),
        long_description_content_type="text/markdown",
    )
