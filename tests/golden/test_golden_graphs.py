"""Golden graphs: found by name, complete, the same everywhere, and true to their references."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
from faster_coco_eval.core import mask as rle

from onnxgraft.errors import InputError
from onnxgraft.golden import catalog, scenes, shapes
from onnxgraft.golden import weights as weights_module
from onnxgraft.golden.weights import weights as seeded_weights
from onnxgraft.runtime.comparison import match
from onnxgraft.runtime.detections import Detections

ZOO = "mask_rcnn_R_50_FPN_3x"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def meta(name: str) -> dict:
    return json.loads((catalog.folder(name) / "meta.json").read_text())


def detect(path: Path, image: np.ndarray) -> Detections:
    """Run a raw detectron2 export in ONNX Runtime."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    session = onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
    tensor = image.astype(np.float32).transpose(2, 0, 1)
    boxes, classes, masks, scores, _ = session.run(None, {session.get_inputs()[0].name: tensor})
    return Detections.of(boxes, scores, classes, masks[:, 0])


def test_a_file_is_itself(tmp_path: Path) -> None:
    file = tmp_path / "mask_rcnn"  # a file wins over the golden graph of the same name
    file.write_bytes(b"")
    assert catalog.resolve(str(file), tmp_path) == file


def test_unknown_name_lists_the_known() -> None:
    with pytest.raises(InputError, match=r"'yolo' is neither .*\bmask_rcnn, mask_rcnn@opset11"):
        catalog.resolve("yolo", Path("unused"))
    with pytest.raises(InputError, match=r"'mask_rnn' is neither .* did you mean 'mask_rcnn'"):
        catalog.resolve("mask_rnn", Path("unused"))
    with pytest.raises(InputError, match="'mask_rcnn@opset9' is neither"):
        catalog.resolve("mask_rcnn@opset9", Path("unused"))


def test_missing_file_is_not_looked_up() -> None:
    for missing in ("gone.onnx", "folder/mask_rcnn"):
        with pytest.raises(InputError, match=f"{missing}: no such file"):
            catalog.resolve(missing, Path("unused"))


def test_without_the_source_tree(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(catalog, "ROOT", tmp_path / "golden_graphs")
    with pytest.raises(InputError, match="golden_graphs is not there"):
        catalog.resolve("mask_rcnn", tmp_path)


def test_weights_are_pinned() -> None:
    # Philox4x64-10 with key (20260, 3), as any implementation gives it
    (first,) = seeded_weights(20260, 3, 5, 0.5)
    assert first.dtype == np.float32
    bits = np.random.Philox(key=np.array([20260, 3], np.uint64)).random_raw(3)
    words = [int(draw) >> shift & 0xFFFFFFFF for draw in bits for shift in (0, 32)][:5]
    assert first.tolist() == [0.5 * ((word >> 8) / 2**23 - 1) for word in words]


def test_weights_do_not_depend_on_the_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    (whole,) = seeded_weights(1, 2, 1001, 0.3)
    monkeypatch.setattr(weights_module, "CHUNK", 64)
    np.testing.assert_array_equal(np.concatenate(list(seeded_weights(1, 2, 1001, 0.3))), whole)


@pytest.mark.parametrize("name", ["mask_rcnn", ZOO])
def test_files_are_those_of_the_listing(name: str) -> None:
    home = catalog.folder(name)
    for file, digest in meta(name)["sha256"].items():
        assert hashlib.sha256((home / file).read_bytes()).hexdigest() == digest, file


@pytest.mark.parametrize("name", ["mask_rcnn", ZOO])
def test_nothing_tells_of_the_machine(name: str) -> None:
    for file in catalog.folder(name).glob("*.*"):
        model = re.compile(rb"site-packages|/home/|/root/|/tmp/|/usr/")
        data = file.read_bytes()
        if file.suffix == ".onnx":  # weights are noise and may spell anything
            graph = onnx.load(file, load_external_data=False)
            for tensor in graph.graph.initializer:
                tensor.ClearField("raw_data")
            data = graph.SerializeToString()
        assert not model.search(data), file


def test_opset_11_shares_the_weights() -> None:
    home = catalog.folder("mask_rcnn")
    assert (home / "model_opset11.onnx").stat().st_size < 500_000
    onnx.checker.check_model(str(home / "model_opset11.onnx"))
    full, shared = (onnx.load(home / file) for file in ("model.onnx", "model_opset11.onnx"))
    assert [model.opset_import[0].version for model in (full, shared)] == [16, 11]

    def large(model: onnx.ModelProto) -> list[bytes]:
        arrays = map(onnx.numpy_helper.to_array, model.graph.initializer)
        return sorted(array.tobytes() for array in arrays if array.nbytes >= 1024)

    assert large(full) == large(shared)


@pytest.mark.slow
def test_full_size_is_written_once_and_the_same(cache: Path, tmp_path: Path) -> None:
    path = catalog.resolve(ZOO, cache)
    again = catalog.resolve(ZOO, tmp_path)
    digests = {hashlib.sha256(file.read_bytes()).hexdigest() for file in (path, again)}
    assert digests == {meta(ZOO)["complete_sha256"]["model.onnx"]}
    assert [file.name for file in tmp_path.iterdir()] == [again.name]

    written = path.stat().st_mtime_ns
    assert catalog.resolve(ZOO, cache) == path
    assert path.stat().st_mtime_ns == written
    onnx.checker.check_model(str(path))


@pytest.mark.slow
def test_full_size_opsets_have_the_same_weights(cache: Path) -> None:
    def weights(name: str) -> list[str]:
        model = onnx.load(catalog.resolve(name, cache))
        large = [tensor for tensor in model.graph.initializer if len(tensor.raw_data) >= 1024]
        assert sum(len(tensor.raw_data) for tensor in large) > 177_000_000
        return sorted(hashlib.sha256(tensor.raw_data).hexdigest() for tensor in large)

    assert weights(ZOO) == weights(f"{ZOO}@opset11")


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file, no folder")
    with pytest.raises(InputError, match=r"cache/.*\.onnx cannot be written: "):
        catalog.resolve(ZOO, tmp_path / "cache")


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(weights_module, "weights", full)
    with pytest.raises(InputError, match="cannot be written: no space left on device"):
        catalog.resolve(ZOO, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_scenes_are_redrawn_to_the_byte() -> None:
    for index in (0, 5):
        digest = hashlib.sha256(scenes.scene(index).tobytes()).hexdigest()
        assert digest == meta("mask_rcnn")["scenes"][f"scene_{index}"]["sha256"]


def test_noise_is_the_sum_of_eight_bytes() -> None:
    # in Python's integers, from the words that any Philox4x64-10 gives
    drawn = shapes.Stream(5).noise(1000, 30, 100)
    words = np.random.Philox(key=np.array([5, shapes.STREAM], np.uint64)).random_raw(3000)
    sums = [sum(int(word).to_bytes(8, "little")) for word in words]
    assert drawn.ravel().tolist() == [(total - 1020) * 627_000 >> 17 for total in sums]
    assert abs(drawn.mean()) < 60
    assert abs(drawn.std() - 1000) < 40


def test_shapes_are_where_their_outlines_are() -> None:
    x = np.arange(-40, 41)
    area = {"square": 2.0, "triangle": 3**1.5 / 4, "star": 10 * 0.45 * np.sin(np.pi / 5) / 2}  # of radius 1
    for name, share in area.items():
        for angle in (0, 100, 555):
            inside = shapes._inside(shapes._corners(name, 40 * shapes.PIXEL, angle), x, x[:, None])
            assert inside[40, 40], name
            assert abs(inside.sum() / (share * 40**2) - 1) < 0.08, (name, angle)
            assert (np.hypot(x, x[:, None])[inside] < 40.8).all(), name
    lengths = np.hypot(*np.array(shapes._directions()).T)
    assert np.abs(lengths / shapes.UNIT - 1).max() < 2e-5


def test_drawing_uses_no_floating_point(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a picture is made of is an integer or a bool: floating point may round otherwise on another machine."""
    kinds = set()
    for module, name in ((scenes, "_background"), (shapes, "_inside"), (scenes, "_enlarged")):
        made = getattr(module, name)

        def watched(*arguments: object, made: Callable = made) -> np.ndarray:
            result = made(*arguments)
            kinds.update(value.dtype.kind for value in (*arguments, result) if isinstance(value, np.ndarray))
            assert not any(isinstance(value, float) for value in arguments)
            return result

        monkeypatch.setattr(module, name, watched)
    for seed in range(8):
        scenes.draw(seed, (64, 96))
    assert kinds == {"i", "b"}


def test_pictures_show_the_scenes() -> None:
    for index in (0, 1):
        picture = cv2.imread(str(catalog.folder("mask_rcnn") / "images" / f"scene_{index}.jpg"))
        assert picture is not None
        error = np.abs(picture.astype(int) - scenes.scene(index))
        assert error.mean() < 6  # JPEG of noise; another scene is off by 40 and more


def test_annotations_fit_the_pictures() -> None:
    truth = scenes.coco([3], scenes.GOLDEN)
    drawn = scenes.scene_instances(3)
    assert len(truth["annotations"]) == len(drawn) > 20
    for annotation, shape in zip(truth["annotations"], drawn, strict=True):
        mask = rle.decode(annotation["segmentation"])
        np.testing.assert_array_equal(mask, shape.mask)
        ys, xs = np.nonzero(mask)
        box = [xs.min(), ys.min(), xs.max() + 1 - xs.min(), ys.max() + 1 - ys.min()]
        assert annotation["bbox"] == box
        assert annotation["area"] == mask.sum()
    json.dumps(truth)


def test_trained_detector_gives_pytorchs_answers(cache: Path) -> None:
    home = catalog.folder("mask_rcnn")
    report = match(
        Detections.load(home / "reference" / "scene_1.npz"),
        detect(catalog.resolve("mask_rcnn", cache), scenes.scene(1)),
    )
    assert report.exact, report


def test_trained_detector_at_opset_11_does_not(cache: Path) -> None:
    # the half pixel that RoiAlign lost in the export: the reference can tell
    home = catalog.folder("mask_rcnn")
    report = match(
        Detections.load(home / "reference" / "scene_1.npz"),
        detect(catalog.resolve("mask_rcnn@opset11", cache), scenes.scene(1)),
    )
    assert report.share < 0.2, report


@pytest.mark.slow
def test_full_size_gives_its_reference(cache: Path) -> None:
    reference = Detections.load(catalog.folder(ZOO) / "reference" / "scene_0.npz")
    assert len(reference) == 100
    assert len(np.unique(reference.scores)) == 100
    report = match(reference, detect(catalog.resolve(ZOO, cache), scenes.scene(0)))
    assert report.exact, report


def test_full_size_reference_was_pytorchs() -> None:
    reports = meta(ZOO)["onnxruntime_against_pytorch"]
    assert len(reports) == 3
    assert all(report["exact"] for report in reports)
