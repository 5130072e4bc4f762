"""Names that would run a script or break a page or a file, were they not escaped. A script that runs sets onnxgraft_ran."""

from __future__ import annotations

import random

RUN = "onnxgraft_ran=1"
NAMES = (
    f'x" autofocus onfocus={RUN} tabindex=1 y="', f"x' onmouseover='{RUN}' y='", "<!--<script>",
    "<!-- <script> </script> -->", f"</script><script>{RUN}</script>", f"<img src=x onerror={RUN}>", f"<svg/onload={RUN}>",
    "${" + RUN + "}", "`${" + RUN + "}`", "{{ 7 * 7 }}", "{% raw %}", "&quot; onfocus=&quot;", "&lt;script&gt;",
    f"javascript:{RUN}", "]]>", "constructor", "__proto__", "toString", "hasOwnProperty", "\u2028", "\u202eabc", "\x00",
    "\x1b[31mred", "../../etc/passwd", "a\nb", "\\u003cscript", "%s%n{0}", f"<iframe srcdoc='<script>{RUN}</script>'>",
    f"<a href=javascript:{RUN}>", "<style>*{display:none}</style>", "<base href=//x>",
)  # fmt: skip


def hostile_names(chance: random.Random, count: int) -> list[str]:
    """`count` different names: each of NAMES, then mixtures of two."""
    names = list(NAMES[:count])
    while len(names) < count:
        mixture = f"{chance.choice(NAMES)}{chance.choice(('', ' ', '>', chr(34), chr(39), '`'))}{chance.choice(NAMES)}"
        if mixture not in names:
            names.append(mixture)
    return names
