"""What is installed on this machine, what can be built and run on it, and why not.

What may crash, NVIDIA's packages and its driver, is asked in a child of its own, whose death is an answer too. No engine is
loaded.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement

from onnxgraft import targets
from onnxgraft.files import parsed
from onnxgraft.golden import catalog
from onnxgraft.targets.trt import devices
from onnxgraft.targets.trt.child import command_of, how_it_ended
from onnxgraft.targets.trt.dialect import DIALECTS

SECONDS = 120.0  # for a child to answer
NAME = "onnxgraft"
_BESIDE = ("detectron2", "torch", "torchvision", "nvidia-pytriton", "openvino")  # no requirement of ours, and worth knowing
_SAME = {  # packages that bring the same module
    "opencv-python-headless": ("opencv-python", "opencv-contrib-python", "opencv-contrib-python-headless"),
    "onnxruntime": ("onnxruntime-gpu",),
    "tensorrt": ("tensorrt-cu13", "tensorrt-cu12"),
}
_TOOLS = ("trtexec", "tensorrt_rtx", "tritonserver", "nvcc", "docker")
_TOOL_FOLDERS = ("/usr/src/tensorrt/bin", "/usr/local/cuda/bin", "/opt/tritonserver/bin")
_JETSON = Path("/etc/nv_tegra_release")


@dataclass(frozen=True)
class Package:
    """A Python package.

    Attributes:
        name: as pip has it.
        version: empty where it is not installed.
        wanted: what onnxgraft asks for, such as ">=1.18"; empty for any.
        extra: the extra that it belongs to; empty for what is always needed.
        fault: what is wrong with it, in words; empty when nothing is.
    """

    name: str
    version: str
    wanted: str
    extra: str
    fault: str


@dataclass(frozen=True)
class TargetState:
    """A target here: its module and version, and why it cannot build or run (None where it can)."""

    name: str
    version: str
    builds: str | None
    runs: str | None


@dataclass(frozen=True)
class Driver:
    """NVIDIA's driver: its version, the CUDA that it runs, its GPUs; `fault` says why there are none."""

    version: str = ""
    cuda: str = ""
    gpus: tuple[devices.Device, ...] = ()
    fault: str = ""


@dataclass(frozen=True)
class Findings:
    """Of this machine.

    Attributes:
        system: what it is, by word.
        driver: NVIDIA's.
        packages: installed or wanted.
        targets: in the order in which `auto` tries them.
        chosen: what `--target auto` takes, and why.
        tools: programs that were found, by name: their paths.
        golden_graphs: how many detectors with stored answers are here.
        advice: sentences: what to do about what is missing.
    """

    system: dict[str, str]
    driver: Driver
    packages: tuple[Package, ...]
    targets: tuple[TargetState, ...]
    chosen: tuple[str, str]
    tools: dict[str, str]
    golden_graphs: int
    advice: tuple[str, ...] = field(default=())

    @property
    def sound(self) -> bool:
        """Whether everything that is always needed is here, and some target builds and runs."""
        needed = all(not package.fault for package in self.packages if not package.extra)
        return needed and any(state.builds is None and state.runs is None for state in self.targets)


def examine() -> Findings:
    """Look at this machine. Never raises for what it finds there."""
    names = [name for name in targets.names() if name != "auto"]
    with ThreadPoolExecutor(len(names) + 1) as pool:
        asked = pool.submit(_driver)
        states = tuple(pool.map(_target, names))
        driver = asked.result()
    first = next((state for state in states if state.builds is None), None)
    why = "; ".join(f"not {state.name}: {state.builds}" for state in states if state.builds is not None)
    chosen = (first.name, why or "everything is here") if first else ("none", why)
    packages = tuple(_packages())
    return Findings(
        _system(), driver, packages, states, chosen, _tools(), len(catalog.names()), tuple(_advice(packages, states, driver))
    )


def _system() -> dict[str, str]:
    system = {
        "onnxgraft": _version(NAME), "python": f"{platform.python_version()} ({sys.executable})",
        "system": f"{platform.system()} {platform.release()}", "processor": f"{platform.machine()}, {os.cpu_count()} cores",
        "memory": _memory(),
    }  # fmt: skip
    if _JETSON.is_file():
        system["Jetson Linux"] = " ".join(_JETSON.read_text(errors="replace").split()[1:6]).rstrip(",")
    return system


def _memory() -> str:
    try:
        return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB"
    except (AttributeError, OSError, ValueError):  # a system without sysconf
        return "unknown"


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _packages() -> list[Package]:
    try:
        wanted = metadata.requires(NAME) or []
    except metadata.PackageNotFoundError:
        wanted = []
    found = []
    for line in wanted:
        extra = re.search(r"extra\s*==\s*['\"]([\w-]+)", line)
        try:
            requirement = Requirement(line)
        except InvalidRequirement:
            continue
        if extra is None or extra[1] != "test":
            found.append(_package(requirement.name, requirement, extra[1] if extra else ""))
    known = {package.name for package in found}
    return found + [_package(name, None, "beside") for name in _BESIDE if name not in known]


def _package(name: str, requirement: Requirement | None, extra: str) -> Package:
    held = next((other for other in (name, *_SAME.get(name, ())) if _version(other)), name)
    version, fault = _version(held), ""
    wanted = str(requirement.specifier) if requirement else ""
    if not version:
        fault = "is not installed" if not extra else ""
    elif requirement and not requirement.specifier.contains(version, prereleases=True):
        fault = f"is {version}, and {wanted} is wanted"
    return Package(held, version, wanted, extra, fault)


def _tools() -> dict[str, str]:
    path = os.pathsep.join([os.environ.get("PATH", ""), *_TOOL_FOLDERS])
    found = {name: shutil.which(name, path=path) for name in _TOOLS}
    return {name: place for name, place in found.items() if place}


def _ask(*question: str) -> tuple[Any, str]:
    """(what a child said, how it failed instead)."""
    command = command_of(__name__, *question)
    try:
        ended = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return None, f"asking did not end within {SECONDS:.0f} s"
    except OSError as error:
        return None, f"no process could be started: {error}"
    if ended.returncode:
        last = (ended.stderr.strip().splitlines() or ["no reason given"])[-1][:200]
        return None, f"asking ended the process that asked ({how_it_ended(ended.returncode)}): {last}"
    try:
        return json.loads(ended.stdout.splitlines()[-1]), ""
    except (IndexError, ValueError):
        return None, "asking gave no answer"


def _target(name: str) -> TargetState:
    answer, failure = _ask("target", name)
    return parsed(TargetState, answer, name) if not failure else TargetState(name, "unknown", failure, failure)


def _driver() -> Driver:
    answer, failure = _ask("driver", "")
    return parsed(Driver, answer, "driver") if not failure else Driver(fault=failure)


def main(what: str, name: str) -> None:
    """A child: say on stdout, as JSON, what `what` is like here."""
    said: Any
    if what == "target":
        target = targets.get(name)
        said = TargetState(name, target.version(), target.available(), target.can_run())
    else:
        gpus = devices.devices()
        said = Driver(devices.driver_version(), devices.cuda_version(), gpus, "" if gpus else str(devices.no_gpu()))
    print("\n" + json.dumps(asdict(said)))


def _advice(packages: tuple[Package, ...], states: tuple[TargetState, ...], driver: Driver) -> list[str]:
    lines = [f"{package.name} {package.fault}: pip install '{package.name}{package.wanted}'"
             for package in packages if package.fault]  # fmt: skip
    installs = {dialect.module: dialect.install for dialect in DIALECTS}
    for state in states:
        if state.builds is not None and state.version in installs:  # the module alone: it is missing
            lines.append(f"engines for {state.name}: {installs[state.version]}")
    if not driver.gpus:
        lines.append(
            "without a GPU: build MODEL --target tensorrt --no-engine writes model.onnx and, in manifest.json, the trtexec "
            "line for the machine that has one; tensorrt-rtx builds engines here; onnxruntime answers"
        )
    return lines


def report(found: Findings) -> dict[str, Any]:
    """As JSON has it."""
    return asdict(found) | {"sound": found.sound}
