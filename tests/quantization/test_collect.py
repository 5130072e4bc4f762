"""Calibration runs over a tiny network: streaming, resuming, shards, and input that is no good."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.graphs import parse_graph
from PIL import Image

from onnxgraft.detector.spec import DetectorSpec, ImageInput, Outputs
from onnxgraft.errors import InputError
from onnxgraft.ir.graph import Graph
from onnxgraft.manifest import GraphIO, ImageIO
from onnxgraft.pipeline.context import Context
from onnxgraft.quantization import dataset as picture_sets
from onnxgraft.quantization.calibration import Calibration, Key
from onnxgraft.quantization.collect import collect
from onnxgraft.quantization.dataset import Picture
from onnxgraft.quantization.histogram import Histogram

SIZE = 16
KEY = Key("tiny", {"canvas": [SIZE, SIZE]})
NAMES = ["input_tensor", "doubled", "log"]


@pytest.fixture
def tiny() -> tuple[Graph, Context]:
    graph = parse_graph(f"""<ir_version: 8, opset_import: ["" : 19]>
        agraph (float[1,3,{SIZE},{SIZE}] input_tensor) => (float[1,3,{SIZE},{SIZE}] out) <float two = {{2.0}}> {{
            doubled = Mul(input_tensor, two)
            log = Log(doubled)
            out = Relu(log)
        }}""")
    ctx = Context()
    taken = ImageInput("input_tensor", SIZE, SIZE, (1.0, 2.0, 3.0), (1.0, 1.0, 1.0), "BGR", True, "input_tensor")
    ctx.detector = DetectorSpec("tiny", taken, Outputs(None, None, None))
    ctx.io = GraphIO(ImageIO("input_tensor", (1, 3, SIZE, SIZE)))
    return graph, ctx


def image(index: int) -> np.ndarray:
    return np.random.default_rng(index).integers(1, 256, (SIZE, SIZE, 3)).astype(np.uint8)


def picture(index: int, load: Callable[[], np.ndarray] | None = None) -> Picture:
    return Picture(f"{index}.png", f"digest{index}", load or (lambda: image(index)))


def comparable(calibration: Calibration) -> dict[str, Any]:
    tensors = {name: histogram.to_dict() for name, histogram in calibration.tensors.items()}
    return {"tensors": tensors, "pictures": sorted(calibration.pictures), "skipped": calibration.skipped}


def test_counts_what_onnx_runtime_computes(tiny: tuple[Graph, Context]) -> None:
    found = collect(*tiny, NAMES, KEY, [picture(i) for i in range(3)])
    values = 2 * np.stack([image(i) for i in range(3)]).astype(np.float32)
    doubled = found.tensors["doubled"]
    assert (doubled.total, doubled.low, doubled.high) == (values.size, values.min(), values.max())
    assert found.tensors["log"].high == pytest.approx(np.log(values.max()), rel=1e-6)


def test_an_interrupted_run_goes_on_and_gives_the_same(tiny: tuple[Graph, Context], tmp_path: Path) -> None:
    loads: list[int] = []

    def interrupted() -> np.ndarray:
        raise KeyboardInterrupt

    def counted(index: int) -> Picture:
        return picture(index, lambda: (loads.append(index), image(index))[1])

    whole = collect(*tiny, NAMES, KEY, [picture(i) for i in range(5)])
    state = tmp_path / "calibration.json.part"
    with pytest.raises(KeyboardInterrupt):
        collect(*tiny, NAMES, KEY, [counted(0), counted(1), picture(2, interrupted), counted(3), counted(4)], state)
    assert state.is_file()
    resumed = collect(*tiny, NAMES, KEY, [counted(i) for i in range(5)], state)
    assert loads == [0, 1, 2, 3, 4]
    assert comparable(resumed) == comparable(whole)
    assert not state.exists()


@pytest.mark.parametrize("nth", [1, 3, 4, 5, 6])
def test_an_interrupt_between_two_tensors_counts_no_picture_twice(
    nth: int, tiny: tuple[Graph, Context], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three tensors a picture: the interrupt comes when the nth one of the run has been counted."""
    pictures, state, add = [picture(i) for i in range(5)], tmp_path / "part", Histogram.add
    whole = collect(*tiny, NAMES, KEY, pictures)
    count = iter(range(1, 100))

    def interrupted(self: Histogram, values: np.ndarray) -> None:
        add(self, values)
        if next(count) == nth:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Histogram, "add", interrupted)
        patch.setattr("onnxgraft.quantization.collect.STATE_SECONDS", 0.0)
        with pytest.raises(KeyboardInterrupt) as stop:
            collect(*tiny, NAMES, KEY, pictures, state)
    kept = (nth - 1) // 3
    told = [f"{state} keeps {kept} of 5 images: the same command goes on from there"] if kept else []
    assert getattr(stop.value, "__notes__", []) == told
    assert state.exists() == bool(kept)
    assert comparable(collect(*tiny, NAMES, KEY, pictures, state)) == comparable(whole)


def test_a_killed_run_loses_only_the_last_moments(
    tiny: tuple[Graph, Context], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnxgraft.quantization.collect.STATE_SECONDS", 0.0)
    state = tmp_path / "part"

    def killed() -> np.ndarray:
        raise SystemExit  # like a kill: nothing is saved on the way out

    with pytest.raises(SystemExit):
        collect(*tiny, NAMES, KEY, [picture(0), picture(1), picture(2, killed)], state)
    assert sorted(Calibration.load(state).pictures) == [("0.png", "digest0"), ("1.png", "digest1")]
    state.write_text(state.read_text()[:100])  # a damaged state is started anew
    again = collect(*tiny, NAMES, KEY, [picture(0), picture(1)], state)
    assert comparable(again) == comparable(collect(*tiny, NAMES, KEY, [picture(0), picture(1)]))


def test_a_state_of_other_pictures_or_another_network_is_not_used(tiny: tuple[Graph, Context], tmp_path: Path) -> None:
    def interrupted() -> np.ndarray:
        raise KeyboardInterrupt

    expected = comparable(collect(*tiny, NAMES, KEY, [picture(5), picture(6)]))
    for key, first in ((KEY, 0), (Key("other", KEY.preprocess), 5)):
        state = tmp_path / f"part{first}"
        with pytest.raises(KeyboardInterrupt):
            collect(*tiny, NAMES, key, [picture(first), picture(9, interrupted)], state)
        assert comparable(collect(*tiny, NAMES, KEY, [picture(5), picture(6)], state)) == expected


def test_shards_merge_into_the_whole(tiny: tuple[Graph, Context]) -> None:
    pictures = [picture(i) for i in range(7)]
    whole = collect(*tiny, NAMES, KEY, pictures)
    parts = [collect(*tiny, NAMES, KEY, picture_sets.shard(pictures, f"{i}/3")) for i in (2, 1, 3)]
    merged = parts[0]
    for part in parts[1:]:
        merged.merge(part)
    assert comparable(merged) == comparable(whole)
    for wrong in ("0/3", "4/3", "1", "a/b"):
        with pytest.raises(InputError, match="write I/N"):
            picture_sets.shard(pictures, wrong)
    with pytest.raises(InputError, match="has only 7 images"):
        picture_sets.shard(pictures, "9/9")


def test_a_batch_reads_several_pictures_at_once(tiny: tuple[Graph, Context]) -> None:
    graph, ctx = tiny
    for tensor in [*graph.gs.inputs, *graph.gs.outputs]:
        tensor.shape[0] = 2
    ctx.batch = 2
    ctx.io = GraphIO(ImageIO("input_tensor", (2, 3, SIZE, SIZE)))
    found = collect(graph, ctx, NAMES, KEY, [picture(i) for i in range(4)])
    assert found.tensors["doubled"].total == 4 * 3 * SIZE * SIZE
    assert len(found.pictures) == 4


def test_not_a_number_names_tensor_and_image(tiny: tuple[Graph, Context]) -> None:
    black = np.zeros((SIZE, SIZE, 3), np.uint8)
    with pytest.raises(InputError, match=r"tensor 'log' is NaN or infinite on 1\.png"):
        collect(*tiny, NAMES, KEY, [picture(0), picture(1, lambda: black)])


def test_constant_images_are_counted(tiny: tuple[Graph, Context]) -> None:
    grey = np.full((SIZE, SIZE, 3), 7, np.uint8)
    found = collect(*tiny, NAMES, KEY, [picture(0, lambda: grey)])
    assert (found.tensors["doubled"].low, found.tensors["doubled"].high) == (14.0, 14.0)


def test_unreadable_images_are_left_out_and_named(tiny: tuple[Graph, Context], tmp_path: Path) -> None:
    for index in range(2):
        Image.fromarray(image(index)).save(tmp_path / f"{index}.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    (tmp_path / "notes.txt").write_text("not counted among the images")
    found = collect(*tiny, NAMES, KEY, picture_sets.folder(tmp_path))
    assert [name for name, _ in found.pictures] == ["0.png", "1.png"]
    (line,) = found.skipped
    assert "broken.png: not a readable image" in line


def test_a_folder_without_usable_images_is_refused(tiny: tuple[Graph, Context], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no images"):
        picture_sets.folder(tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        picture_sets.folder(tmp_path / "absent")
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"none of the 1 calibration images can be read.*broken\.png"):
        collect(*tiny, NAMES, KEY, picture_sets.folder(tmp_path))


def test_a_limit_spreads_over_the_folder(tmp_path: Path) -> None:
    for index in range(10):
        Image.fromarray(image(index)).save(tmp_path / f"{index}.png")
    assert [p.name for p in picture_sets.folder(tmp_path, 4)] == ["0.png", "2.png", "5.png", "7.png"]
    with pytest.raises(InputError, match="--limit 0: give at least 1"):
        picture_sets.folder(tmp_path, 0)


def test_a_full_disk_is_one_line(tiny: tuple[Graph, Context], tmp_path: Path) -> None:
    found = collect(*tiny, NAMES, KEY, [picture(0)])
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="cannot be written"):
        found.save(tmp_path / "file" / "calibration.json")
