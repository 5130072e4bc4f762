"""What a build folder says of itself: its manifest and its times."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from onnxgraft.detector.sidecar import Sidecar
from onnxgraft.files import digest
from onnxgraft.manifest import Manifest, PassTime, Preprocess, Source, Times, versions
from onnxgraft.options import CompileOptions, Options, as_dict, declared
from onnxgraft.pipeline.context import Context
from onnxgraft.pipeline.record import Report
from onnxgraft.proof.proof import Proof
from onnxgraft.targets import EngineInfo, Target
from onnxgraft.targets.base import Wanted
from onnxgraft.targets.releases import release_of

_OF_THE_PASSES = frozenset(option.name for option in declared(CompileOptions))
_SECONDS = "_seconds"  # how EngineInfo's times are named


def manifest_of(
    *, options: Options, ctx: Context, beside: Sidecar, folder: Path, target: Target,
    engine: EngineInfo | None, runnable: str, source: Source, target_reason: str, calibration: dict[str, Any] | None,
    pipeline: str, proof: Proof | None,
) -> Manifest:  # fmt: skip
    """The manifest of the files that stand in `folder` by now; see Manifest for what the arguments become."""
    spec = ctx.detector
    files = [path for path in sorted(folder.iterdir()) if path.is_file()]
    return Manifest(
        onnxgraft=versions().get("onnxgraft", "unknown"),
        source=source,
        target=target.name,
        target_reason=target_reason,
        precision=options.precision,
        calibration=calibration,
        pipeline=pipeline,
        options={name: value for name, value in as_dict(options).items() if name in _OF_THE_PASSES},
        runnable=runnable,
        engine="model" + target.suffix if engine is not None and target.suffix else None,
        io=ctx.io,
        preprocess=Preprocess.of(spec.image, beside.edges) if spec else Preprocess(),
        class_names=beside.class_names,
        semantic_class_names=beside.semantic_class_names,
        panoptic=beside.panoptic if spec and spec.semantic and spec.mask_head else None,
        spec=spec.to_dict() if spec else None,
        notes=tuple(ctx.notes),
        proof=proof.to_json() if proof is not None else None,
        sizes={path.name: path.stat().st_size for path in files},
        sha256={path.name: digest(path) for path in files},
        versions=versions(),
        engine_info=_told(engine, times=False) if engine is not None else None,
        trtexec=target.trtexec_line(
            Path("model.onnx"), Path("model" + (target.suffix or ".onnx")), options, wanted_of(options, ctx)
        ),
    )


def wanted_of(options: Options, ctx: Context) -> Wanted | None:
    """The release of the target that is meant; None for the one that is installed."""
    return Wanted(release_of(options.release).name, options.precision, ctx.kept_fp32) if options.release else None


def times_of(report: Report, engine: EngineInfo | None, surgery: float, total: float) -> Times:
    """Seconds of every pass in order, of the builder, of all passes (`surgery`) and of all."""
    passes = tuple(PassTime(record.name, record.seconds) for record in report.records)
    return Times(passes, surgery, total, _told(engine, times=True) if engine is not None else {})


def _told(engine: EngineInfo, times: bool) -> dict[str, Any]:
    return {key: value for key, value in engine.as_dict().items() if key.endswith(_SECONDS) == times}
