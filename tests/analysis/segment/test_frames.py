from __future__ import annotations

from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile

from analysis.segment.inputs import InputError, list_frames
from analysis.segment.skipped import Skipped


def image(value: int = 7, shape: tuple[int, ...] = (20, 30), dtype: type = np.uint16) -> np.ndarray:
    return np.full(shape, value, dtype)


def test_a_folder_is_a_sequence_in_natural_order(tmp_path: Path) -> None:
    for number in (10, 2, 1):
        tifffile.imwrite(tmp_path / f"t{number}.tif", image(number))
    (tmp_path / "notes.txt").write_text("mine")
    frames = list_frames([tmp_path])
    assert [f.name for f in frames] == ["t1", "t2", "t10"]
    assert [f.number for f in frames] == [0, 1, 2]
    assert {f.sequence for f in frames} == {tmp_path.name}
    assert frames[2].read()[0, 0] == 10
    assert frames[0].shape == (20, 30)


@pytest.mark.parametrize(("imagej", "compression"), [(True, None), (False, None), (False, "zlib")])
def test_a_stack_is_read_one_page_at_a_time(
    tmp_path: Path, imagej: bool, compression: str | None
) -> None:
    stack = np.arange(5 * 20 * 30, dtype=np.uint16).reshape(5, 20, 30)
    path = tmp_path / "movie.tif"
    tifffile.imwrite(path, stack, imagej=imagej, compression=compression)
    frames = list_frames([path])
    assert [f.name for f in frames] == [f"movie_t{k:04d}" for k in range(5)]
    assert {f.sequence for f in frames} == {"movie"}
    assert all(np.array_equal(f.read(), stack[k]) for k, f in enumerate(frames))


def test_names_are_unique_in_a_request(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        tifffile.imwrite(tmp_path / name / "t0.tif", image())
    (tmp_path / "b" / "x.png").write_bytes(imagecodecs.png_encode(image(3, dtype=np.uint8)))
    frames = list_frames([tmp_path / "a", tmp_path / "b"])
    assert [(f.name, f.sequence) for f in frames] == [("t0", "a"), ("t0-2", "b"), ("x", "b")]


def test_every_wrong_file_is_named_at_once(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "float.tif", image().astype(np.float32))
    tifffile.imwrite(tmp_path / "rgb.tif", image(shape=(20, 30, 3)), photometric="rgb")
    tifffile.imwrite(tmp_path / "five.tif", image(shape=(5, 5, 20, 30)))
    (tmp_path / "broken.tif").write_bytes(b"II*\0oh no")
    (tmp_path / "empty").mkdir()
    (tmp_path / "word.docx").write_text("")
    names = ["float.tif", "rgb.tif", "five.tif", "broken.tif", "empty", "word.docx", "gone.tif"]
    with pytest.raises(InputError) as caught:
        list_frames([tmp_path / name for name in names])
    assert all(name in str(caught.value) for name in names)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="no image"):
        list_frames([])


def test_folders_of_one_name_are_sequences_of_their_own(tmp_path: Path) -> None:
    for name in ("A/pos", "B/pos"):
        (tmp_path / name).mkdir(parents=True)
        for t in range(2):
            tifffile.imwrite(tmp_path / name / f"t{t}.tif", image(t))
    frames = list_frames([tmp_path / "A" / "pos", tmp_path / "B" / "pos"])
    assert [f.sequence for f in frames] == ["pos", "pos", "pos-2", "pos-2"]
    assert [f.number for f in frames] == [0, 1, 0, 1]
    # a file and its folder: once
    assert len(list_frames([tmp_path / "A" / "pos" / "t1.tif", tmp_path / "A" / "pos"])) == 2


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_stack_written_page_by_page(tmp_path: Path, compression: str | None) -> None:
    with tifffile.TiffWriter(tmp_path / "film.tif") as tiff:
        for t in range(5):
            tiff.write(image(t), compression=compression)
    frames = list_frames([tmp_path / "film.tif"])
    assert [int(f.read()[0, 0]) for f in frames] == [0, 1, 2, 3, 4]


def test_nothing_of_a_file_is_left_out_silently(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "mixed.tif") as tiff:
        tiff.write(image())
        tiff.write(image(shape=(10, 30)))
    tifffile.imwrite(tmp_path / "whole.tif", image(shape=(5, 20, 30)), imagej=True)
    content = (tmp_path / "whole.tif").read_bytes()
    (tmp_path / "short.tif").write_bytes(content[: len(content) // 2])
    pixels, axes = image(shape=(2, 20, 30)), {"axes": "CYX"}
    tifffile.imwrite(tmp_path / "channels.tif", pixels, imagej=True, metadata=axes)
    tifffile.imwrite(
        tmp_path / "planar.tif", image(shape=(3, 20, 30)), photometric="rgb", planarconfig=2
    )
    tifffile.imwrite(tmp_path / f"{'n' * 230}.tif", image())
    says = {
        "mixed.tif": "images of different kinds",
        "short.tif": "of its 5 images",
        "channels.tif": "2 channels",
        "planar.tif": "colour",
        "n" * 230: "longer than",
    }
    for name, words in says.items():
        with pytest.raises(InputError, match=words):
            list_frames([tmp_path / (name if name.endswith(".tif") else f"{name}.tif")])


def grouped(root: Path, yaml: str, names: str = "a1 a2 a10 b1 b2 c1") -> Path:
    (root / "images").mkdir(parents=True)
    for name in names.split():
        tifffile.imwrite(root / "images" / f"{name}.tif", image())
    (root / "dataset.yaml").write_text(yaml)
    return root


def test_groups_of_a_data_set_are_its_sequences(tmp_path: Path) -> None:
    yaml = "pixel_size_um: 0.3\ngroups: {a1: x, b1: y, a2: y, a10: x, b2: x, gone: z}\n"
    root = grouped(tmp_path / "d", yaml)
    expected = [
        ("a1", "x", 0),
        ("a10", "x", 1),
        ("b2", "x", 2),
        ("a2", "y", 0),
        ("b1", "y", 1),
        ("c1", "c1", 0),
    ]
    files = sorted((root / "images").iterdir())
    for inputs in ([root / "images"], [root], files):
        frames = list_frames(inputs)
        assert {f.name: f.sequence for f in frames} == {name: s for name, s, _ in expected}
    assert list_frames([root / "images"]) == list_frames([root])
    assert [(f.name, f.sequence, f.number) for f in list_frames([root])] == expected
    # groups of one name in two data sets are two sequences
    other = grouped(tmp_path / "e", "groups: {a1: x, a2: x, a10: x}")
    assert {f.sequence for f in list_frames([root, other])} >= {"x", "x-2", "y"}


def test_a_data_set_without_groups_is_a_film(tmp_path: Path) -> None:
    root = grouped(tmp_path / "d", "frame_interval_s: 60\n")
    assert {f.sequence for f in list_frames([root / "images"])} == {"images"}
    (root / "dataset.yaml").write_text("pixel_size: 1\n")
    with pytest.raises(InputError, match=r"dataset.yaml: pixel_size: unknown key; did you mean"):
        list_frames([root / "images"])


def test_only_sequences_have_frames(tmp_path: Path) -> None:
    root = grouped(tmp_path / "d", "groups: {a1: x, a2: x, b1: y}")
    tifffile.imwrite(tmp_path / "film.tif", image(shape=(3, 20, 30)), photometric="minisblack")
    tifffile.imwrite(tmp_path / "one.tif", image())
    tifffile.imwrite(tmp_path / "two.tif", image())
    inputs = [root, *(tmp_path / f"{name}.tif" for name in ("film", "one", "two"))]
    film = {f"film_t{t:04d}": t for t in range(3)}
    alone = dict.fromkeys(("a10", "b1", "b2", "c1"))
    expected = {"a1": 0, "a2": 1, **alone, **film, "one": None, "two": None}
    assert {f.name: f.time for f in list_frames(inputs)} == expected
    films = {f.name: f.time for f in list_frames(inputs, films=True)}
    assert films == {**expected, "one": 0, "two": 1}
    (root / "dataset.yaml").write_text("frame_interval_s: 60\n")
    assert [f.time for f in list_frames([root])] == list(range(6))
    (root / "dataset.yaml").write_text("pixel_size_um: 0.5\n")
    assert {f.time for f in list_frames([root])} == {None}


def test_the_order_and_the_paths_given_do_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("A/t10", "A/t2", "B/t2"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        tifffile.imwrite(tmp_path / f"{name}.tif", image())
    (tmp_path / "link").symlink_to("A")
    monkeypatch.chdir(tmp_path)
    names = [("t2", "A", 0), ("t10", "A", 1), ("t2-2", "B", 0)]
    whole = [f.identity() for f in list_frames([tmp_path / "A", tmp_path / "B"])]
    for given in ("A B", "B A", "link/ B", "A/t10.tif B/t2.tif A/t2.tif", "A/t2.tif A link B"):
        frames = list_frames([Path(word) for word in given.split()])
        assert [(f.name, f.sequence, f.number) for f in frames] == names, given
        assert [f.identity() for f in frames] == whole


def test_what_is_skipped_is_named(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", image())
    (tmp_path / "b.tif").symlink_to("a.tif")
    (tmp_path / "gone.tif").symlink_to("nowhere.tif")
    for name in ("movie.nd2", "photo.JPEG", "Thumbs.db", *(f"n{i}.txt" for i in range(9))):
        (tmp_path / name).write_text("")
    skipped = Skipped()
    assert [f.name for f in list_frames([tmp_path], skipped=skipped)] == ["a"]
    note = skipped.note()
    assert note.startswith("skipped 13 files: ")
    assert "\n" not in note
    for words in (
        "b.tif (the same file as a.tif)",
        "gone.tif (not a file, or a link",
        "movie.nd2 (a micro",
        "photo.JPEG (lossy",
        "n0.txt, n1.txt, n2.txt, n3.txt, n4.txt and 4 more (only .tif",
    ):
        assert words in note
    assert "Thumbs" not in note
    (tmp_path / "a.tif").unlink()
    without = r"no TIFF or PNG file in this folder, only 13 others: .*photo.JPEG"
    with pytest.raises(InputError, match=without):
        list_frames([tmp_path])
    # of a data set its images count
    root = grouped(tmp_path / "d", "")
    (root / "notes.md").write_text("")
    (root / "images" / "x.jpg").write_text("")
    skipped = Skipped()
    list_frames([root], skipped=skipped)
    assert [path.name for path in skipped.files] == ["x.jpg"]
