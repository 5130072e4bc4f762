"""The class to call: DefaultPredictor's interface over a build, with and without detectron2."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers.stand_ins import STORED, detected, keypoints, panoptic, stand_in
from PIL import Image

from onnxgraft import InputError, Predictor
from onnxgraft.runtime.instances import Boxes, Instances, array
from onnxgraft.runtime.session import Session

PICTURE = np.arange(83 * 125 * 3, dtype=np.uint32).astype(np.uint8).reshape(83, 125, 3)


@pytest.fixture(scope="module")
def segments(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return panoptic(tmp_path_factory.mktemp("panoptic") / "build", batch=2)


def test_everything_that_a_panoptic_network_finds(segments: Path) -> None:
    (result,) = Session(segments).run([PICTURE])
    answer = Predictor(segments, structures="numpy")(PICTURE)
    found = answer["instances"]
    assert found.image_size == (83, 125)
    np.testing.assert_array_equal(found.pred_boxes.tensor.cpu().numpy(), result.found.detections.boxes)
    np.testing.assert_array_equal(found.scores.cpu().numpy(), result.found.detections.scores)
    np.testing.assert_array_equal(found.pred_classes.cpu().numpy(), result.found.detections.classes)
    np.testing.assert_array_equal(found.pred_masks.cpu().numpy(), result.found.pasted())
    assert found.pred_masks.dtype == bool
    assert answer["sem_seg"].shape == (len(STORED["logits"]), 83, 125)
    np.testing.assert_array_equal(answer["sem_seg"].numpy().argmax(0), result.semantic)
    ids, info = answer["panoptic_seg"]
    np.testing.assert_array_equal(ids.numpy(), result.panoptic.ids)
    assert info == list(result.panoptic.info)
    assert set(answer) == {"instances", "sem_seg", "panoptic_seg"}


def test_keypoints_and_least_score(tmp_path: Path) -> None:
    build = keypoints(tmp_path / "build")
    everything = Predictor(build, structures="numpy")(PICTURE)["instances"]
    assert everything.pred_keypoints.shape == (len(STORED["heatmap_boxes"]), STORED["heatmaps"].shape[1], 3)
    surer = Predictor(build, structures="numpy", min_score=0.7)(PICTURE)["instances"]
    assert 0 < len(surer) < len(everything)
    assert (surer.scores >= 0.7).all()
    assert not everything.has("pred_masks")
    with pytest.raises(AttributeError, match="no field 'pred_masks'"):
        everything.pred_masks  # noqa: B018


def test_arrays_pillow_images_and_paths_are_the_same_picture(segments: Path, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "p.png"), PICTURE)
    pillow = Image.fromarray(PICTURE[..., ::-1].copy())
    seen: list[np.ndarray] = []
    with Predictor(segments, structures="numpy") as predictor:
        run = predictor.session.run
        predictor.session.run = lambda images: (seen.append(r.image) or r for r in run(images))  # type: ignore[method-assign]
        answers = predictor([PICTURE, pillow, tmp_path / "p.png", str(tmp_path / "p.png"), pillow.convert("RGBA")])
    assert len(answers) == 5  # batches of two, the last one filled up
    assert all(np.array_equal(picture, PICTURE) for picture in seen)
    assert len({answer["instances"].scores.tobytes() for answer in answers}) == 1


def test_it_says_what_it_does_not_take(segments: Path, tmp_path: Path) -> None:
    predictor = Predictor(segments, structures="numpy")
    with pytest.raises(InputError, match="expected a uint8 image"):
        predictor(PICTURE.astype(np.float32))
    with pytest.raises(InputError, match="not a readable image"):
        predictor(tmp_path / "none.png")
    with pytest.raises(InputError, match="a PIL image or a path, got int"):
        predictor(7)  # type: ignore[arg-type]
    predictor.close()
    with pytest.raises(InputError, match="this session is closed"):
        predictor(PICTURE)
    with pytest.raises(InputError, match="no build"):
        Predictor(tmp_path)
    with pytest.raises(InputError, match="expected auto, numpy or detectron2"):
        Predictor(segments, structures="torch")  # type: ignore[arg-type]


def test_sixteen_bits_are_scaled(segments: Path) -> None:
    deep = (PICTURE[..., 0].astype(np.uint16)) * 257
    seen = Image.fromarray(deep)
    assert seen.mode.startswith("I;16")
    predictor = Predictor(segments, structures="numpy")
    (result,) = predictor.session.run([np.repeat(PICTURE[..., :1], 3, 2)])
    run = predictor.session.run
    seen_by: list[np.ndarray] = []
    predictor.session.run = lambda images: (seen_by.append(r.image) or r for r in run(images))  # type: ignore[method-assign]
    predictor(seen)
    np.testing.assert_array_equal(seen_by[0], result.image)


def test_instances_without_torch() -> None:
    boxes = Boxes([[0, 0, 4, 2], [1, 1, 2, 9], [5, 5, 5, 7]])
    found = Instances((10, 20), pred_boxes=boxes, scores=array(np.float32([0.9, 0.8, 0.7])))
    np.testing.assert_array_equal(boxes.area().numpy(), [8, 8, 0])
    np.testing.assert_array_equal(boxes.nonempty().numpy(), [True, True, False])
    np.testing.assert_array_equal(boxes.get_centers()[1].numpy(), [1.5, 5])
    surest = found[found.scores > 0.75].to("cpu")
    assert (len(surest), len(found[1]), len(found[-1]), len(list(found))) == (2, 1, 1, 3)
    assert found[-1].scores.tolist() == pytest.approx([0.7])
    assert surest.pred_boxes.tensor.detach().cpu().numpy().tolist() == [[0, 0, 4, 2], [1, 1, 2, 9]]
    joined = Instances.cat([surest, found[2]])
    np.testing.assert_array_equal(joined.pred_boxes.tensor, boxes.tensor)
    found.extra = [1, 2, 3]
    assert found.get("extra") == [1, 2, 3]
    found.remove("extra")
    assert list(found.get_fields()) == ["pred_boxes", "scores"]
    assert repr(found) == "Instances(num_instances=3, image_height=10, image_width=20, fields=[pred_boxes, scores])"
    with pytest.raises(InputError, match="a field of 2 values cannot join Instances of 3: wrong"):
        found.wrong = [1, 2]
    with pytest.raises(IndexError):
        found[3]


def test_proposals_of_an_rpn(tmp_path: Path) -> None:
    outputs = detected(STORED["boxes"], np.full(len(STORED["boxes"]), 0.5), np.zeros(len(STORED["boxes"])))
    del outputs["detection_classes"]
    build = stand_in(tmp_path / "build", outputs)
    manifest = (build / "manifest.json").read_text()
    named = ", ".join(f'"{name}": [1]' for name in outputs)
    (build / "manifest.json").write_text(manifest.replace('"io": {', f'"io": {{"outputs": {{{named}}}, '))
    found = Predictor(build, structures="numpy")(PICTURE)["proposals"]
    assert len(found.proposal_boxes) == len(found.objectness_logits) > 0
    np.testing.assert_allclose(found.objectness_logits, 0, atol=1e-6)


def test_supervision_takes_it(segments: Path) -> None:
    supervision = pytest.importorskip("supervision", reason="the package supervision is not installed")
    answer = Predictor(segments, structures="numpy")(PICTURE)
    taken = supervision.Detections.from_detectron2(answer)
    np.testing.assert_array_equal(taken.xyxy, answer["instances"].pred_boxes.tensor)
    np.testing.assert_array_equal(taken.class_id, answer["instances"].pred_classes)
    np.testing.assert_array_equal(taken.confidence, answer["instances"].scores)
    np.testing.assert_array_equal(np.asarray(taken.mask), answer["instances"].pred_masks)


def test_detectron2_where_it_is(segments: Path) -> None:
    structures = pytest.importorskip("detectron2.structures", reason="detectron2 is not installed")
    real, own = (Predictor(segments, structures=kind)(PICTURE) for kind in ("auto", "numpy"))
    assert isinstance(real["instances"], structures.Instances)
    assert isinstance(real["instances"].pred_boxes, structures.Boxes)
    for name in ("scores", "pred_classes", "pred_masks"):
        np.testing.assert_array_equal(real["instances"].get(name).numpy(), own["instances"].get(name))
    np.testing.assert_array_equal(real["sem_seg"].numpy(), own["sem_seg"])
    np.testing.assert_array_equal(real["panoptic_seg"][0].numpy(), own["panoptic_seg"][0])
