"""Files that state far more pixels than they hold bytes."""

from __future__ import annotations

import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile

from analysis.segment.inputs import InputError, list_frames
from trainables.data.imagefiles import MOST_PIXELS, ImageFileError, read_image, read_labels

SIDE = 20_000


def png_bomb(path: Path) -> Path:
    """Write a valid PNG file of 20000 x 20000 black pixels; it has less than a megabyte."""

    def chunk(name: bytes, content: bytes) -> bytes:
        checked = name + content
        return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))

    packer, rows = zlib.compressobj(1), bytes(1 + SIDE)
    packed = b"".join(packer.compress(rows) for _ in range(SIDE)) + packer.flush()
    header = struct.pack(">IIBBBBB", SIDE, SIDE, 8, 0, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", packed), chunk(b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    return path


def tiff_bomb(path: Path) -> Path:
    """Write a valid TIFF file of 20000 x 20000 black pixels."""
    tifffile.imwrite(path, np.zeros((SIDE, SIDE), np.uint8), compression="zlib")
    return path


@pytest.mark.parametrize("make", [png_bomb, tiff_bomb], ids=["png", "tiff"])
def test_files_that_would_fill_the_memory_are_refused(tmp_path: Path, make) -> None:  # type: ignore[no-untyped-def]
    path = make(tmp_path / ("a.png" if make is png_bomb else "a.tif"))
    assert path.stat().st_size < 2e6
    tracemalloc.start()
    for read in (read_image, read_labels):
        with pytest.raises(ImageFileError, match=r"has 20000 x 20000 pixels; at most 268435456"):
            read(path)
    with pytest.raises(InputError, match=r"has 20000 x 20000 pixels"):
        list_frames([path])
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 100e6


def test_large_mosaics_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.full((4000, 5000), 7, np.uint16), compression="zlib")
    assert read_image(path).shape == (4000, 5000)
    assert MOST_PIXELS == 16384**2
