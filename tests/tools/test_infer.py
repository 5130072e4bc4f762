"""`infer` over files, folders, patterns and videos: what it writes, what it passes over, what it says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from helpers.cli import assert_one_line_error, cli
from helpers.stand_ins import detected, panoptic, stand_in

from onnxgraft.errors import InputError
from onnxgraft.runtime import class_names, sources
from onnxgraft.runtime.ahead import ahead, behind
from onnxgraft.tools import infer
from onnxgraft.tools.infer_shards import infer_shards

FOUND = [[2, 3, 40, 30], [50, 10, 90, 60]]


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    outputs = detected(np.array(FOUND), np.array([0.9, 0.3]), np.array([2, 0]))
    return stand_in(tmp_path_factory.mktemp("stand_in") / "build", outputs, batch=2)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three pictures, one of them broken, a note, and a folder."""
    folder = tmp_path_factory.mktemp("pictures")
    for i, size in enumerate([(64, 96), (83, 125)]):
        cv2.imwrite(str(folder / f"p{i}.png"), np.full((*size, 3), 60, np.uint8))
    (folder / "broken.png").write_bytes((folder / "p0.png").read_bytes()[:60])
    (folder / "note.txt").write_text("mine")
    (folder / "inner").mkdir()
    return folder


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("video") / "clip.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10.0, (96, 64))
    for i in range(7):
        writer.write(np.full((64, 96, 3), 20 * i, np.uint8))
    writer.release()
    return path


def run(build: Path, words: list[Any], **outputs: Any) -> tuple[infer.Summary, list[str]]:
    lines: list[str] = []
    summary, _ = infer.infer(build, words, infer.Outputs(**outputs), tell=lines.append)
    return summary, lines


def test_a_folder_with_a_broken_picture(build: Path, pictures: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None, str]] = []
    outputs = infer.Outputs(json_file=tmp_path / "o.json", txt=tmp_path / "txt", drawn=tmp_path / "drawn")
    summary, names = infer.infer(build, [pictures], outputs, progress=lambda *p: seen.append(p))
    assert (summary.frames, summary.detections, len(summary.unread)) == (2, 4, 1)
    assert summary.unread[0].startswith(f"{pictures / 'broken.png'}: not a readable image")
    rows = json.loads((tmp_path / "o.json").read_text())
    assert [Path(row["file"]).name for row in rows] == ["p0.png", "p1.png"]
    assert rows[0]["classes"] == [2, 0]
    assert rows[0]["names"] == ["c", "a"]
    assert names == ("a", "b", "c")
    assert [(done, total) for done, total, _ in seen] == [(1, 3), (2, 3)]
    text = (tmp_path / "txt" / "p0.txt").read_text().splitlines()
    assert [line.split("\t") for line in text] == [
        ["2.0000", "3.0000", "40.0000", "30.0000", "0.900000", "2"],
        ["50.0000", "10.0000", "90.0000", "60.0000", "0.300000", "0"],
    ]
    lines = infer.summary_lines(outputs, summary, names)
    assert lines[0].startswith("2 pictures, 4 detections in ")
    assert lines[0].endswith("; 1 could not be read")
    assert lines[1:] == [f"{tmp_path / 'drawn'}: drawn are scores of at least 0.5 (--min-score 0 draws all)",
                         f"{tmp_path / 'o.json'}: all detections, whatever their score"]  # fmt: skip


def test_what_is_unsure_is_drawn_when_asked_for(build: Path, pictures: Path, tmp_path: Path) -> None:
    run(build, [pictures / "p0.png"], drawn=tmp_path / "usual")
    run(build, [pictures / "p0.png"], drawn=tmp_path / "all", min_score=0.0)
    usual, everything = (cv2.imread(str(tmp_path / kind / "p0.png")) for kind in ("usual", "all"))
    assert (usual[12:58, 52:88] == 60).all()
    assert (everything[10:61, 50:91] != 60).any()
    assert (usual[3:31, 2:41] != 60).any()


def test_a_pattern_and_names_that_occur_twice(build: Path, pictures: Path, tmp_path: Path) -> None:
    summary, lines = run(build, [str(pictures / "p*.png"), pictures / "p0.png"], txt=tmp_path)
    assert summary.frames == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p0.txt", "p0_2.txt", "p1.txt"]
    assert lines[1].startswith(f"{pictures / 'p1.png'}: 2 detections")


def test_strict_stops_and_leaves_the_older_file(build: Path, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "o.json").write_text("older")
    with pytest.raises(InputError, match=r"broken\.png: not a readable image"):
        run(build, [pictures], json_file=tmp_path / "o.json", strict=True)
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("o.json", "older")]


def test_json_to_stdout_is_alone_there(build: Path, pictures: Path, tmp_path: Path) -> None:
    asked = ["infer", build, pictures, "--json"]
    printed, written = cli(*asked, "-", cwd=tmp_path), cli(*asked, tmp_path / "o.json", cwd=tmp_path)
    assert (printed.returncode, written.returncode) == (1, 1)  # the broken picture
    assert printed.stdout == (tmp_path / "o.json").read_text()
    assert "broken.png" in printed.stderr
    assert "4 detections" in printed.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["o.json"]


def test_panoptic_pictures_have_no_place_beside_stdout(pictures: Path, tmp_path: Path) -> None:
    found = cli("infer", panoptic(tmp_path / "panoptic"), pictures / "p1.png", "--json", "-")
    assert_one_line_error(found, "--json -", "give a file")
    assert found.stdout == ""


def test_a_video(build: Path, video: Path, tmp_path: Path) -> None:
    summary, lines = run(build, [video], json_file=tmp_path / "o.json", drawn=tmp_path / "drawn", txt=tmp_path / "txt")
    assert (summary.frames, lines) == (7, [f"{video}: 7 frames, 14 detections"])
    rows = json.loads((tmp_path / "o.json").read_text())
    assert [row["frame"] for row in rows] == list(range(7))
    assert list(rows[0])[:2] == ["file", "frame"]
    assert sorted(p.name for p in (tmp_path / "txt").iterdir()) == [f"clip_{i:06d}.txt" for i in range(7)]
    assert [p.name for p in (tmp_path / "drawn").iterdir()] == ["clip.mp4"]
    drawn = cv2.VideoCapture(str(tmp_path / "drawn" / "clip.mp4"))
    assert drawn.get(cv2.CAP_PROP_FRAME_COUNT) == 7
    summary, _ = run(build, [video, video], limit=9)
    assert summary.frames == 9


def test_a_video_that_breaks_off(build: Path, video: Path, tmp_path: Path) -> None:
    """AVI keeps its frames apart, so that what is before the break is whole."""
    whole = tmp_path / "whole.avi"
    writer = cv2.VideoWriter(str(whole), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (96, 64))
    noise = np.random.default_rng(3)
    for _ in range(20):
        writer.write(noise.integers(0, 255, (64, 96, 3)).astype(np.uint8))
    writer.release()
    data = whole.read_bytes()
    (tmp_path / "half.avi").write_bytes(data[: len(data) * 6 // 10])
    summary, lines = run(build, [tmp_path / "half.avi"], json_file=tmp_path / "o.json")
    assert 0 < summary.frames < 20
    assert len(json.loads((tmp_path / "o.json").read_text())) == summary.frames
    assert summary.unread == [f"{tmp_path / 'half.avi'}: ends after {summary.frames} of 20 frames: it is damaged there"]
    assert lines[0] == f"note: passed over: {summary.unread[0]}"


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("https://example.org/a.jpg", "https://example.org/a.jpg: is a URL; nothing is downloaded: save it as a file"),
        ("empty", "empty: this folder holds no pictures or videos"),
        ("*.jpeg", "*.jpeg: no picture or video has such a name"),
        ("bad.mp4", "bad.mp4: not a video that OpenCV can decode: truncated, or of an unknown kind"),
        ("gone.mp4", "gone.mp4: no such file"),
        ("97", "camera 97: there is none, or it is in use"),
    ],
)
def test_sources_that_are_none(word: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.mp4").write_bytes(b"no video" * 50)
    with pytest.raises(InputError) as error:
        sources.find([word])
    assert str(error.value).startswith(reason)


def test_names_of_sources_are_their_own(tmp_path: Path) -> None:
    for name in ("a/x.png", "b/x.png", "b/x_2.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    found = sources.find([tmp_path / "a", tmp_path / "b"])
    assert [source.stem for source in found] == ["x", "x_3", "x_2"]


def test_class_names(build: Path, pictures: Path, tmp_path: Path) -> None:
    categories = [{"id": 9, "name": "three"}, {"id": 1, "name": "one"}, {"id": 4, "name": "two"}]
    names = ["one", "two", "three"]
    files = {"n.txt": "one\ntwo\n\nthree\n", "n.json": json.dumps(names), "s.json": json.dumps({"class_names": names}),
             "c.json": json.dumps({"categories": categories})}  # fmt: skip
    for name, text in files.items():
        (tmp_path / name).write_text(text)
        assert class_names.read(tmp_path / name) == ("one", "two", "three")
    with pytest.raises(InputError, match=r"n\.txt: 3 class names, but the network has 5 classes"):
        class_names.read(tmp_path / "n.txt", 5)
    (tmp_path / "o.json").write_text('{"x": 1}')
    with pytest.raises(InputError, match="no class names: expected a name a line"):
        class_names.read(tmp_path / "o.json")
    run(build, [pictures / "p0.png"], names=tmp_path / "n.txt", json_file=tmp_path / "found.json")
    assert json.loads((tmp_path / "found.json").read_text())[0]["names"] == ["three", "one"]


def test_names_of_segments(tmp_path: Path, pictures: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("\n".join(f"thing {i}" for i in range(10)))
    run(panoptic(tmp_path / "panoptic"), [pictures / "p1.png"], names=names, json_file=tmp_path / "o.json")
    (row,) = json.loads((tmp_path / "o.json").read_text())
    things = [s for s in row["panoptic"]["segments_info"] if s["isthing"]]
    assert things
    assert all(s["name"] == f"thing {s['category_id']}" for s in things)
    assert row["names"] == [f"thing {c}" for c in row["classes"]]


def test_the_exit_code_counts_what_could_not_be_read(build: Path, pictures: Path, tmp_path: Path) -> None:
    done = cli("infer", build, pictures, "--json", tmp_path / "o.json")
    assert done.returncode == 1
    assert "note: passed over: " in done.stdout
    assert "2 pictures, 4 detections" in done.stdout
    assert done.stderr == ""
    assert_one_line_error(cli("infer", build, pictures, "--strict"), "broken.png: not a readable image")
    assert cli("infer", build, pictures / "p0.png").returncode == 0
    assert_one_line_error(cli("infer", pictures / "p0.png", build), "p0.png: is a file, and a build is wanted first")
    assert_one_line_error(cli("infer", build / "model.onnx", pictures), "is a model, and a build is wanted: onnxgraft build")


def test_a_local_ray_gives_the_bytes_of_one_machine(pictures: Path, tmp_path: Path) -> None:
    ray = pytest.importorskip("ray", reason="Ray is not installed (extra [ray])")
    segments = panoptic(tmp_path / "panoptic")
    ours = infer.Outputs(json_file=tmp_path / "a" / "o.json", drawn=tmp_path / "a" / "drawn", txt=tmp_path / "a" / "txt")
    theirs = infer.Outputs(json_file=tmp_path / "b" / "o.json", drawn=tmp_path / "b" / "drawn", txt=tmp_path / "b" / "txt")
    one, _ = infer.infer(segments, [pictures], ours)
    ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False, configure_logging=False)
    try:
        said: list[str] = []
        two, _ = infer_shards(segments, [pictures], theirs, (None, None), "auto", 2, lambda *_: None, None, said.append)
    finally:
        ray.shutdown()
    assert (one.frames, one.detections, len(one.unread)) == (two.frames, two.detections, len(two.unread)) == (2, 12, 1)
    first, second = (
        {p.relative_to(tmp_path / side).as_posix(): p.read_bytes() for p in (tmp_path / side).rglob("*") if p.is_file()}
        for side in ("a", "b")
    )
    assert sorted(first) == sorted(second)
    assert len(first) == 7  # JSON, and of two pictures the panoptic one, the drawn one, the text
    assert first == second


def test_reading_ahead_keeps_order_and_errors() -> None:
    def numbers(n: int) -> Any:
        yield from range(n)
        raise InputError("no more")

    held = ahead(numbers(5), 2)
    assert [next(held) for _ in range(5)] == list(range(5))
    with pytest.raises(InputError, match="no more"):
        next(held)
    closed = ahead(iter(range(10**9)), 2)
    assert next(closed) == 0
    closed.close()
    assert list(behind(lambda n: n * n, range(20), 3)) == [n * n for n in range(20)]
    with pytest.raises(ZeroDivisionError):
        list(behind(lambda n: 1 // (n - 3), range(20), 3))
