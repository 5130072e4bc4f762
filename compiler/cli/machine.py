"""The commands that look at this machine: doctor."""

from __future__ import annotations

import typer

from onnxgraft.cli.options import add
from onnxgraft.cli.parameters import Json


def doctor(json_file: Json = None) -> None:
    """Say what is installed here, what can be built and run, and why not; exits with 1 when nothing can."""
    from onnxgraft.cli.console import out, say, show, working, write_figures
    from onnxgraft.tools import doctor as examination

    with working("looking around"):
        found = examination.examine()
    if json_file is not None:
        write_figures(json_file, examination.report(found))
    out.quiet |= str(json_file) == "-"
    driver = found.driver
    rows = list(found.system.items())
    rows.append(("driver", f"{driver.version or 'unknown'}, CUDA {driver.cuda}" if driver.gpus else driver.fault))
    rows += [("GPU", f"{gpu.name}, {gpu.capability[0]}.{gpu.capability[1]}, {gpu.memory_mib} MiB") for gpu in driver.gpus]
    rows += [("program", f"{name}: {path}") for name, path in found.tools.items()]
    rows.append(("golden graphs", str(found.golden_graphs)))
    show([("machine", ""), *rows])
    show([("package", "installed", "wanted", "extra"), *(
        (p.name, p.version or "-", p.wanted, p.extra) for p in found.packages
    )])  # fmt: skip
    show([("target", "version", "builds here", "runs here"), *(
        (t.name, t.version, t.builds or "yes", t.runs or "yes") for t in found.targets
    )])  # fmt: skip
    say(f"--target auto takes {found.chosen[0]}: {found.chosen[1]}")
    for line in found.advice:
        say(f"note: {line}")
    if not found.sound:
        raise typer.Exit(1)


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    add(app, doctor, works=True, examples=("onnxgraft doctor", "onnxgraft doctor --json -"))
