"""Holds the names that our builder and runner use against the Python bindings of real releases of TensorRT.

    pip download --no-deps -d WHEELS tensorrt-bindings==8.6.1 tensorrt-cu12-bindings==10.3.0 tensorrt-cu13-bindings==11.4.0.106
    python -m campaigns.bindings WHEELS          # and --write for tests/data/tensorrt_bindings.json

Bindings are a small extension module over libnvinfer, which is not needed: a child imports it over libraries of the same names
that do nothing (a C compiler makes them) and says which names are there.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from onnxgraft.targets.trt import api

DATA = Path(__file__).resolve().parents[1] / "data" / "tensorrt_bindings.json"
_WHEEL = re.compile(r"tensorrt(?:_cu\d+)?_bindings-(\d+\.\d+[^-]*)-cp(\d+)-")
_NEEDED = re.compile(r"lib(?:nvinfer|nvonnxparser|nvparsers|nvinfer_plugin)\.so\.\d+")
_SYMBOL = re.compile(r" U (\w*(?:Infer|NvOnnx|PluginRegistry|nvuffparser|nvcaffeparser|nvonnxparser|nvinfer)\w*)")
_ASK = """
import importlib.machinery, importlib.util, json, sys
loader = importlib.machinery.ExtensionFileLoader("tensorrt", sys.argv[1])
module = importlib.util.module_from_spec(importlib.util.spec_from_loader("tensorrt", loader))
loader.exec_module(module)
found = []
for kind, members in json.loads(sys.argv[2]).items():
    holder = getattr(module, kind, None) if kind else module
    found += [f"{kind}.{member}".lstrip(".") for member in members if holder is not None and hasattr(holder, member)]
print(json.dumps(found))
"""


def unusable() -> str | None:
    """None when bindings can be looked into here, or the reason why not."""
    if sys.platform != "linux":
        return "the bindings that are looked into are those for Linux"
    lacking = [tool for tool in ("cc", "nm") if not shutil.which(tool)]
    return f"no {' and '.join(lacking)}, which make libraries that do nothing" if lacking else None


def wheels(folder: Path) -> dict[str, Path]:
    """The bindings of a folder that are for this Python, by the release's version."""
    here = f"{sys.version_info.major}{sys.version_info.minor}"
    found = {}
    for path in sorted(folder.glob("*.whl")):
        match = _WHEEL.match(path.name)
        if match and match[2] == here:
            found[match[1]] = path
    return dict(sorted(found.items(), key=lambda item: [int(part) for part in re.findall(r"\d+", item[0])]))


def names_of(wheel: Path) -> dict[str, Any]:
    """The names of `api` that bindings have ("found") and lack ("missing").

    Raises RuntimeError where they cannot be imported.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
        module = next(folder.glob("*/tensorrt.so"))
        python = (module.parent / "__init__.py").read_text()
        wanted = subprocess.run(["nm", "-D", str(module)], check=True, capture_output=True, text=True).stdout
        source = folder / "nothing.c"
        source.write_text("".join(
            f'long f{i}(void) __asm__("{name}"); long f{i}(void) {{ return 0; }}\n'
            for i, name in enumerate(sorted(set(_SYMBOL.findall(wanted))))
        ))  # fmt: skip
        for needed in set(_NEEDED.findall(module.read_bytes().decode("latin-1"))):
            command = ["cc", "-shared", "-fPIC", f"-Wl,-soname,{needed}", "-o", str(folder / needed), str(source)]
            subprocess.run(command, check=True, capture_output=True)
        asked = [sys.executable, "-c", _ASK, str(module), json.dumps(api.USED)]
        done = subprocess.run(asked, capture_output=True, text=True, env={"LD_LIBRARY_PATH": str(folder)})
    if done.returncode:
        raise RuntimeError(f"{wheel.name} cannot be imported: {done.stderr.strip().splitlines()[-1]}")
    found = json.loads(done.stdout)
    found += [name for name in api.PYTHON if re.search(rf"^(def {name}\(|{name} = )", python, re.MULTILINE)]
    every = [*api.names(), *api.PYTHON]
    return {"found": len(found), "missing": [name for name in every if name not in found]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheels", type=Path, help="folder of bindings")
    parser.add_argument("--write", action="store_true", help="store what was found")
    arguments = parser.parse_args()
    reason = unusable()
    if reason:
        sys.exit(f"error: {reason}")
    found = {version: names_of(wheel) for version, wheel in wheels(arguments.wheels).items()}
    for version, names in found.items():
        print(f"{version}: {names['found']} names are there, {', '.join(names['missing']) or 'none'} missing")
    if arguments.write:
        DATA.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
