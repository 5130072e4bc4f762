"""onnxgraft export: what is refused, and that what it writes is the model. Most of it needs torch and detectron2."""

from __future__ import annotations

import importlib.util
import json
import os
import pickle
import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

from onnxgraft.cli.main import app
from onnxgraft.errors import InputError
from onnxgraft.frontends.detectron2 import export as frontend
from onnxgraft.frontends.detectron2 import safe_pickle
from onnxgraft.golden.sidecars import find

MISSING = [name for name in ("torch", "detectron2") if importlib.util.find_spec(name) is None]
torched = pytest.mark.skipif(bool(MISSING), reason=f"{' and '.join(MISSING)} not installed: they are the extra [export]")
if not MISSING:
    import torch

    from onnxgraft.frontends.detectron2 import configs

FASTER = "COCO-Detection/faster_rcnn_R_50_FPN_3x.yaml"
THIN = (
    "MODEL.RESNETS.WIDTH_PER_GROUP", "8", "MODEL.RESNETS.RES2_OUT_CHANNELS", "16", "MODEL.RESNETS.STEM_OUT_CHANNELS", "16",
    "MODEL.FPN.OUT_CHANNELS", "16", "MODEL.ROI_BOX_HEAD.FC_DIM=16", "MODEL.ROI_HEADS.NUM_CLASSES=3",
)  # fmt: skip


def export(output: Path, config: str = FASTER, overrides: tuple[str, ...] = THIN, **settings: Any) -> frontend.Exported:
    return frontend.export(
        config, output / "model.onnx", **{"weights": "random", "size": (64, 96), "overrides": overrides, **settings}
    )


def test_without_torch_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"^export needs torch and detectron2: pip install 'onnxgraft\[export\]', then"):
        frontend.export("config.yaml", tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_the_command_gives_its_arguments_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: dict[str, Any] = {}

    def record(config: str, output: Path, **settings: Any) -> frontend.Exported:
        seen.update(settings, config=config, output=output)
        return frontend.Exported(output, output.with_suffix(".json"), "rcnn", 17, ("a note",))

    monkeypatch.setattr(frontend, "export", record)
    arguments = ["export", "c.yaml", "MODEL.A", "1", "MODEL.B", "-2", "-o", "m.onnx", "--opset", "17", "--size", "64x96",
                 "--weights", "w.pkl"]  # fmt: skip
    result = CliRunner().invoke(app, [*arguments[:4], *arguments[6:]])
    assert result.exit_code == 0, result.output
    assert seen == {"config": "c.yaml", "output": Path("m.onnx"), "opset": 17, "size": (64, 96), "weights": "w.pkl",
                    "image": None, "overrides": ["MODEL.A", "1"], "trust": False}  # fmt: skip
    assert "note: a note\nm.onnx: rcnn, opset 17; numbers in m.json\n" in result.output


def test_impossible_output_and_size_are_refused_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(frontend, "require", lambda: None)
    with pytest.raises(InputError, match=r"model\.pb: the name of an exported model ends in \.onnx"):
        frontend.export("c.yaml", "model.pb")
    with pytest.raises(InputError, match="size 100x96: height and width must be multiples of 32"):
        frontend.export("c.yaml", "model.onnx", size=(100, 96))


def test_a_picture_is_resized_by_the_configs_rule(tmp_path: Path) -> None:
    picture = tmp_path / "wide.png"
    cv2.imwrite(str(picture), np.full((50, 200, 3), (10, 20, 30), np.uint8))
    image = frontend.sample(None, picture, (64, 192))
    assert image.shape == (64, 192, 3)  # 48x192, in multiples of 32
    assert image[0, 0].tolist() == [10, 20, 30]
    assert frontend.sample((96, 64), picture, (64, 192), "RGB").shape == (96, 64, 3)
    assert frontend.sample((96, 64), picture, (64, 192), "RGB")[0, 0].tolist() == [30, 20, 10]
    for name, words in (("gone.png", "no such file or directory"), ("text.png", "not a picture that can be read")):
        if name == "text.png":
            (tmp_path / name).write_text("no picture")
        with pytest.raises(InputError, match=words):
            frontend.sample(None, tmp_path / name, (64, 192))


def test_a_failed_write_leaves_the_old_model(tmp_path: Path) -> None:
    model = onnx.helper.make_model(onnx.helper.make_graph([], "g", [], []))
    frontend.write(tmp_path / "m.onnx", model, {"config": {}})
    before = (tmp_path / "m.onnx").read_bytes()

    with pytest.raises(InputError, match=r"m\.onnx/n\.onnx cannot be written: (file exists|not a directory)"):
        frontend.write(tmp_path / "m.onnx" / "n.onnx", model, {})
    assert (tmp_path / "m.onnx").read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.json", "m.onnx"]


@torched
def test_the_export_does_not_depend_on_the_picture(tmp_path: Path) -> None:
    made = export(tmp_path)
    assert (made.family, made.opset, made.notes) == ("rcnn", 16, ("the weights are random: scores mean nothing",))
    first = made.model.read_bytes()
    picture = tmp_path / "p.png"
    cv2.imwrite(str(picture), np.zeros((40, 40, 3), np.uint8))
    assert export(tmp_path, image=picture).model.read_bytes() == first


@torched
def test_the_sidecar_is_one_that_build_reads(tmp_path: Path) -> None:
    made = export(tmp_path, overrides=(*THIN, "INPUT.MIN_SIZE_TEST", "640", "MODEL.ROI_HEADS.NMS_THRESH_TEST", "0.4"))
    beside = find("x", made.model)
    assert (beside.channel_order, beside.edges) == ("BGR", (640, 1333))
    assert beside.config["box_head"]["nms_threshold"] == 0.4
    assert beside.config["box_head"]["pooler"] == {"resolution": 7, "sampling_ratio": 0, "aligned": True}
    assert beside.config["rpn"]["post_nms_topk"] == 1000
    assert "/" not in re.sub(r"[A-Za-z]/[A-Za-z]", "", json.dumps(dict(beside.config)))


@torched
@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("MODEL.NOPE", "1"), "Non-existent key: MODEL.NOPE"),
        (("MODEL.RPN.NMS_THRESH",), "MODEL.RPN.NMS_THRESH: a key of the config without a value"),
        (("MODEL.META_ARCHITECTURE", "Mine"), "cannot be built: No object named 'Mine'"),
        (("MODEL.ROI_BOX_HEAD.POOLER_TYPE", "ROIPool"), r"level_poolers\.0 is torchvision\.ops\.roi_pool\.RoIPool, which"),
        (
            ("MODEL.PROPOSAL_GENERATOR.NAME", "RRPN", "MODEL.ANCHOR_GENERATOR.NAME", "RotatedAnchorGenerator",
             "MODEL.RPN.BBOX_REG_WEIGHTS", "(1,1,1,1,1)"),
            r"proposal_generator is detectron2\.modeling\.proposal_generator\.rrpn\.RRPN, which export does not know",
        ),
    ],
)  # fmt: skip
def test_what_is_not_known_is_named(tmp_path: Path, overrides: tuple[str, ...], words: str) -> None:
    with pytest.raises(InputError, match=words):
        export(tmp_path, overrides=overrides)
    assert list(tmp_path.iterdir()) == []


@torched
def test_an_opset_that_cannot_say_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="opset 11 cannot say what this model computes; it needs 16"):
        export(tmp_path, opset=11)
    deformable = ("MODEL.RESNETS.DEFORM_ON_PER_STAGE", "[False,False,False,True]")
    with pytest.raises(InputError, match="it needs 19"):
        export(tmp_path, overrides=(*THIN, *deformable), opset=18)


@torched
def test_checkpoints_fit_or_are_refused(tmp_path: Path) -> None:
    source = configs.load(FASTER, THIN)
    weights = source.model.state_dict()
    torch.save({"model": weights}, tmp_path / "w.pth")
    arrays = {name: value.numpy() for name, value in weights.items()}
    (tmp_path / "w.pkl").write_bytes(pickle.dumps({"model": arrays, "__author__": "me"}))
    made = {suffix: export(tmp_path, weights=str(tmp_path / f"w.{suffix}")).model.read_bytes() for suffix in ("pth", "pkl")}
    assert made["pth"] == made["pkl"]

    part = {name: value for name, value in weights.items() if "rpn_head" not in name}
    torch.save({"model": {**part, "mine.weight": torch.zeros(1)}}, tmp_path / "part.pth")
    words = (r"part\.pth does not fit the config: missing proposal_generator\.rpn_head\.conv\.weight, .* and 2 more; "
             r"unexpected mine\.weight$")  # fmt: skip
    with pytest.raises(InputError, match=words):
        export(tmp_path, weights=str(tmp_path / "part.pth"))
    with pytest.raises(InputError, match=r"shape: .*cls_score\.weight is 4x16 and not 6x16"):
        export(tmp_path, weights=str(tmp_path / "w.pth"), overrides=(*THIN[:-1], "MODEL.ROI_HEADS.NUM_CLASSES=5"))
    (tmp_path / "text.pth").write_text("no checkpoint")
    with pytest.raises(InputError, match=r"text\.pth: (not a checkpoint that|holds more than weights, or is no checkpoint)"):
        export(tmp_path, weights=str(tmp_path / "text.pth"))
    with pytest.raises(InputError, match=r"gone\.pth: no such file"):
        export(tmp_path, weights=str(tmp_path / "gone.pth"))
    with pytest.raises(InputError, match=r"the config's weights detectron2://.* are no file here: give --weights FILE"):
        export(tmp_path, weights=None)


@torched
def test_a_lazy_config_and_its_overrides(tmp_path: Path) -> None:
    made = export(tmp_path, "COCO-Detection/retinanet_R_50_FPN_1x.py", ("model.num_classes", "3", "model.test_nms_thresh=0.4"))
    assert made.family == "retinanet"
    dense = find("x", made.model).config["dense"]
    assert (dense["classes"], dense["nms_threshold"], dense["strides"]) == (3, 0.4, [8, 16, 32, 64, 128])
    for override, words in (
        ("nothing.here=1", "Non-existent key: nothing.here"),
        ("model.nothing=1", "unexpected keyword argument 'nothing'"),
        ("model=1", "`model` is a int and no torch module"),
    ):
        with pytest.raises(InputError, match=words):
            export(tmp_path, "COCO-Detection/retinanet_R_50_FPN_1x.py", (override,))


class Runs:
    """Unpickling one makes a folder."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.place),)


def test_a_pickle_of_numbers_is_read_and_a_program_is_not(tmp_path: Path) -> None:
    arrays = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.float64(2), "o": np.array([1, 2])[::2], "s": "text"}
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        (tmp_path / "w.pkl").write_bytes(pickle.dumps(OrderedDict(arrays), protocol))
        held = safe_pickle.read(tmp_path / "w.pkl")
        assert all(np.array_equal(held[name], value) for name, value in arrays.items())
        (tmp_path / "p.pkl").write_bytes(pickle.dumps({"model": [Runs(tmp_path / "made")]}, protocol))
        with pytest.raises(pickle.UnpicklingError, match=r"it calls (posix|os|nt)\.mkdir"):
            safe_pickle.read(tmp_path / "p.pkl")
    assert not (tmp_path / "made").exists()


@torched
@pytest.mark.parametrize("suffix", ["pkl", "pth"])
def test_a_checkpoint_runs_code_only_when_it_is_trusted(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"w.{suffix}"
    data = {"model": {}, "__author__": Runs(tmp_path / "made")}
    path.write_bytes(pickle.dumps(data)) if suffix == "pkl" else torch.save(data, path)
    refused = rf"w\.{suffix}: holds more than weights, .* \(it calls (posix|os|nt)\.mkdir\): loading it may run code .* --trust"
    with pytest.raises(InputError, match=refused):
        export(tmp_path, weights=str(path))
    assert not (tmp_path / "made").exists()
    with pytest.raises(InputError):  # now it is loaded, and has no weights
        export(tmp_path, weights=str(path), trust=True)
    assert (tmp_path / "made").exists()


@torched
def test_a_model_that_pads_to_a_square_is_traced_at_it(tmp_path: Path) -> None:
    pytest.importorskip("timm", reason="timm not installed: detectron2's transformers need it")
    small = ("model.backbone.net.depth=2", "model.backbone.net.window_block_indexes=[0]", "model.backbone.net.embed_dim=24",
             "model.backbone.square_pad=128", "model.backbone.net.img_size=128", "model.roi_heads.num_classes=3")  # fmt: skip
    config = "common/models/mask_rcnn_vitdet.py"
    made = export(tmp_path, config, small, size=None)
    assert any("windows and positions are those of 128x128: build with --size 128x128" in note for note in made.notes)
    (image,) = onnx.load(made.model).graph.input
    assert [d.dim_value for d in image.type.tensor_type.shape.dim] == [3, 128, 128]
    with pytest.raises(InputError, match=r"size 64x96: the model pads every image to 128x128.*take --size 128x128"):
        export(tmp_path, config, small)
