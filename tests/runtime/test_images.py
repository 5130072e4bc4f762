"""Reading, resizing and placing images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from onnxgraft.errors import InputError
from onnxgraft.runtime.images import Placement, ResizeRule, place, read_image

MEAN = (103.53, 116.28, 123.675)


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


# (height, width) -> what detectron2's ResizeShortestEdge.get_output_shape(h, w, 800, 1333) returns
@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((480, 640), (800, 1067)),
        ((640, 427), (1199, 800)),
        ((427, 640), (800, 1199)),
        ((300, 451), (800, 1203)),
        ((500, 741), (800, 1186)),
        ((512, 512), (800, 800)),
        ((100, 1000), (133, 1333)),
        ((3000, 4000), (800, 1067)),
    ],
)
def test_the_rule_rounds_as_detectron2(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert ResizeRule().size(*size) == expected


def test_an_edge_never_vanishes() -> None:
    assert ResizeRule().size(1, 5000) == (1, 1333)  # detectron2 says 0 and fails
    assert place(picture(1, 5000), (64, 64))[1].resized == (1, 64)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path: Path, orientation: int) -> None:
    upright = np.zeros((4, 6, 3), np.uint8)
    upright[0, 0] = (255, 0, 0)  # RGB: red at the top left, green at the top right
    upright[0, -1] = (0, 255, 0)
    undo = {2: 0, 3: 1, 4: 2, 5: 3, 6: 4, 7: 5, 8: 6}
    transposes = [
        Image.Transpose.FLIP_LEFT_RIGHT,
        Image.Transpose.ROTATE_180,
        Image.Transpose.FLIP_TOP_BOTTOM,
        Image.Transpose.TRANSPOSE,
        Image.Transpose.ROTATE_90,  # a file of orientation 6 stores the picture turned left
        Image.Transpose.TRANSVERSE,
        Image.Transpose.ROTATE_270,
    ]
    stored = Image.fromarray(upright)
    if orientation in undo:
        stored = stored.transpose(transposes[undo[orientation]])
    exif = Image.Exif()
    exif[274] = orientation
    stored.save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), upright[:, :, ::-1])


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "1", "CMYK"])
def test_other_modes_become_bgr(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    Image.fromarray(picture(5, 7)).convert(mode).save(path)
    image = read_image(path)
    assert (image.shape, image.dtype) == ((5, 7, 3), np.uint8)
    if mode in ("L", "LA", "1"):
        np.testing.assert_array_equal(image[..., 0], image[..., 2])
    if mode == "RGBA":
        np.testing.assert_array_equal(image, picture(5, 7)[:, :, ::-1])


def test_unreadable_images_are_named_in_one_line(tmp_path: Path) -> None:
    Image.fromarray(picture(64, 64)).save(tmp_path / "whole.png")
    whole = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "header.png").write_bytes(whole[:20])
    Image.fromarray(picture(64, 64)).save(tmp_path / "whole.jpg")
    jpeg = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    bad = ["cut.png", "text.jpg", "empty.jpg", "header.png", "cut.jpg", "absent.png", "."]
    for name in bad:
        with pytest.raises(InputError) as caught:
            read_image(tmp_path / name)
        message = str(caught.value)
        assert str(tmp_path / name) in message
        assert "\n" not in message
    with pytest.raises(InputError, match=r"absent\.png: not a readable image \(no such file"):
        read_image(tmp_path / "absent.png")


def test_an_image_of_the_canvas_size_is_left_alone() -> None:
    image = picture(96, 128)
    tensor, placement = place(image, (96, 128), mean=MEAN)
    np.testing.assert_array_equal(tensor, image.transpose(2, 0, 1).astype(np.float32))
    assert (placement.scale_x, placement.scale_y, placement.shrunk) == (1, 1, False)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("order", ["BGR", "RGB"])
@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_padding_is_the_mean_in_the_tensors_own_order(layout: str, order: str, dtype: str) -> None:
    image = picture(30, 50)
    mean = MEAN if order == "BGR" else MEAN[::-1]
    rule = ResizeRule(40, 80)
    tensor, placement = place(image, (64, 96), rule, mean, layout, dtype, order)  # type: ignore[arg-type]
    hwc = tensor if layout == "NHWC" else tensor.transpose(1, 2, 0)
    bgr = hwc if order == "BGR" else hwc[..., ::-1]
    assert (tensor.dtype, placement.resized) == (np.dtype(dtype), (40, 67))
    resized = Image.fromarray(image).resize((67, 40), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(bgr[:40, :67], np.asarray(resized))
    padding = np.asarray(MEAN, np.float32) if dtype == "float32" else np.array([104, 116, 124])
    for region in (bgr[40:], bgr[:, 67:]):
        np.testing.assert_array_equal(region, np.broadcast_to(padding, region.shape))


def test_an_image_that_does_not_fit_is_shrunk_and_says_so() -> None:
    portrait = Placement.of((640, 480), (800, 1344), ResizeRule())  # the rule wants 1067 x 800
    assert portrait.shrunk
    assert portrait.resized == (800, 600)
    fits = Placement.of((480, 640), (800, 1344), ResizeRule())
    assert (fits.shrunk, fits.resized) == (False, (800, 1067))
    thin, placement = place(picture(2, 4000), (64, 64))
    assert thin.shape == (3, 64, 64)
    assert placement.resized == (1, 64)


def test_x_and_y_scale_back_separately() -> None:
    placement = Placement.of((427, 640), (1344, 1344), ResizeRule())
    assert (placement.scale_x, placement.scale_y) == (640 / 1199, 427 / 800)


@pytest.mark.parametrize("bad", [np.zeros((4, 4)), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), "u1")])
def test_what_is_no_image_is_refused(bad: np.ndarray) -> None:
    with pytest.raises(InputError, match="expected a uint8 image"):
        place(bad, (64, 64))
