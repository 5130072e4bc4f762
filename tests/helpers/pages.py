"""The data that a report's page carries."""

from __future__ import annotations

import base64
import gzip
import json
import re
from typing import Any


def data_of(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="text/plain" id="data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    content = json.loads(gzip.decompress(base64.b64decode(found[1])))
    assert isinstance(content, dict)
    return content
