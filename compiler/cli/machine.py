"""The commands that look at this machine: doctor, selftest."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from onnxgraft.cli.options import add
from onnxgraft.cli.parameters import Json
from onnxgraft.options import Between, Count


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


def selftest(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of its record and page.")] = Path("build/selftest"),
    only: Annotated[list[str] | None, typer.Option(
        help="Rows that have these words, such as mask_rcnn/fp16 or tensorrt/native (repeatable).",
    )] = None,
    seconds: Annotated[Annotated[float, Between(0, above=True)], typer.Option(help="How long each row is timed.")] = 3.0,
    pictures: Annotated[Count, typer.Option(help="Pictures that answers are compared on.")] = 1,
    again: Annotated[bool, typer.Option("--again", help="Test rows again that are done.")] = False,
    list_rows: Annotated[bool, typer.Option("--list", help="Print the rows, and test none.")] = False,
    json_file: Json = None,
) -> None:  # fmt: skip
    """Build golden detectors on every target here, run them, compare with PyTorch's answers and time them.

    Rows that are done are kept in the output folder, so that the same command goes on.
    Exits with 1 when one differs or breaks."""
    from onnxgraft.cli.console import bar, out, say, show, write_figures
    from onnxgraft.files import check_writable, plain
    from onnxgraft.golden import catalog
    from onnxgraft.tools.selftest import page
    from onnxgraft.tools.selftest.results import FILE
    from onnxgraft.tools.selftest.rows import rows
    from onnxgraft.tools.selftest.run import Settings
    from onnxgraft.tools.selftest.run import selftest as run

    chosen = rows(only or [])
    if list_rows:
        for row in chosen:
            say(row.key)
        return
    check_writable(output / FILE)
    with bar("testing") as progress:
        record = run(chosen, output, Settings(seconds, pictures, again), progress)
    if json_file is not None:
        write_figures(json_file, plain(record))
    out.quiet |= str(json_file) == "-"
    show(page.table(record))
    states = ", ".join(f"{count} {state}" for state, count in page.counts(record).items())
    say(f"{states}: {output / FILE}, {output / page.PAGE}")
    if catalog.installed():
        say("note: an installed package has the detector mask_rcnn alone: a clone of the repository tests the others too")
    if any(result.bad for result in record.rows):
        raise typer.Exit(1)


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    add(app, doctor, works=True, examples=("onnxgraft doctor", "onnxgraft doctor --json -"))
    add(app, selftest, works=True, examples=(
        "onnxgraft selftest",
        "onnxgraft selftest --only mask_rcnn/onnxruntime --only tensorrt/fp16",
    ))  # fmt: skip
