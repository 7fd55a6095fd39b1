"""Encoder weights: resolved without network, fetched once."""

from __future__ import annotations

import hashlib
import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from trainables.config import PAPER_ENCODERS
from trainables.encoders.licences import NOT_KNOWN, TRAINING_DATA, terms_of_timm
from trainables.encoders.names import SMP_ENCODERS, scaling_of
from trainables.encoders.weights import (
    WeightsError,
    WeightsInfo,
    available,
    fetch,
    identify,
    pinned,
    resolve,
)

torch.set_num_threads(1)

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def _info(encoder: str = "resnet152") -> WeightsInfo:
    info = resolve(encoder, "pretrained")
    assert info is not None
    return info


# resolve


@pytest.mark.parametrize("nothing", [None, "none", "None"])
def test_none_needs_nothing(nothing: str | None) -> None:
    assert resolve("resnet18", nothing) is None
    assert available(None)


@pytest.mark.parametrize(
    ("encoder", "name", "source", "mean"),
    [
        ("resnet152", "resnet152.imagenet", "smp-hub/resnet152.imagenet", 0.449),
        ("vgg19", "vgg19.imagenet", "smp-hub/vgg19.imagenet", 0.449),
        (
            "inceptionresnetv2",
            "inceptionresnetv2.imagenet",
            "smp-hub/inceptionresnetv2.imagenet",
            0.5,
        ),
        ("resnest269", "resnest269.in1k", "timm/resnest269e.in1k", 0.449),
        ("tu-resnet18.a1_in1k", "tu-resnet18.a1_in1k", "timm/resnet18.a1_in1k", 0.449),
        ("resnet50", "resnet50.imagenet", "smp-hub/resnet50.imagenet", 0.449),
        ("resnet18", "resnet18.imagenet", "smp-hub/resnet18.imagenet", 0.449),
        ("tu-convnext_tiny", "tu-convnext_tiny.fb_in1k", "timm/convnext_tiny.fb_in1k", 0.449),
    ],
)
def test_pretrained_is_imagenet(encoder: str, name: str, source: str, mean: float) -> None:
    info = _info(encoder)
    assert (info.name, info.source, info.kind) == (name, source, "hub")
    assert info.grey_mean == pytest.approx(mean)
    assert (info.input_space, info.input_range) == ("RGB", (0.0, 1.0))
    assert info.revision is None or len(info.revision) == 40
    assert info.terms.data == "ImageNet-1k"


LACKING = {
    "resnext101_32x4d",
    "resnext101_32x16d",
    "resnext101_32x32d",
    "resnext101_32x48d",
    "dpn68b",
    "dpn92",
    "dpn107",
    "timm-efficientnet-l2",
}


@pytest.mark.parametrize("encoder", [*PAPER_ENCODERS, *SMP_ENCODERS])
def test_every_encoder_has_imagenet_weights_or_says_what_else(encoder: str) -> None:
    if encoder in LACKING:
        with pytest.raises(WeightsError, match="ImageNet-1k alone are published") as caught:
            resolve(encoder, "pretrained")
        for name in re.findall("encoder_weights=([^ ]+)", str(caught.value)):
            other = resolve(encoder, name)
            assert other is not None
            assert other.terms.licence in str(caught.value)
    else:
        info = _info(encoder)
        assert info.name in (f"{encoder}.imagenet", "resnest269.in1k")
        assert info.terms.data == "ImageNet-1k"


def test_all_published_weights_have_a_licence_and_known_training_data() -> None:
    from segmentation_models_pytorch.encoders import encoders as registry

    asked = 0
    for encoder in SMP_ENCODERS:
        for name, settings in registry[encoder]["pretrained_settings"].items():
            info = resolve(encoder, name)
            assert info is not None
            assert info.revision == settings["revision"]
            assert info.terms.data == TRAINING_DATA[name]
            assert info.terms.licence not in ("", NOT_KNOWN), (encoder, name)
            assert info.terms.source.startswith("github.com/")
            hidden = name in ("ssl", "swsl", "instagram") or encoder.startswith("mit_b")
            assert ("no commercial use" in info.terms.licence) == hidden, (encoder, name)
            asked += 1
    assert asked == 116


@pytest.mark.parametrize(
    ("encoder", "name", "licence"),
    [
        ("tu-resnet50", "fb_swsl_ig1b_ft_in1k", "cc-by-nc-4.0 (no commercial use)"),
        (
            "tu-resnet50.fb_swsl_ig1b_ft_in1k",
            "fb_swsl_ig1b_ft_in1k",
            "cc-by-nc-4.0 (no commercial use)",
        ),
        ("tu-convnext_tiny", "in12k_ft_in1k", "apache-2.0"),
        ("tu-tf_efficientnet_b0", "ns_jft_in1k", "apache-2.0"),
    ],
)
def test_timm_weights_go_by_their_tag(encoder: str, name: str, licence: str) -> None:
    info = resolve(encoder, name)
    assert info is not None
    assert info.name == f"{encoder.partition('.')[0]}.{name}"
    assert info.terms.licence == licence
    assert name in info.terms.data


def test_an_encoder_named_with_a_tag_of_other_data_is_not_pretrained() -> None:
    with pytest.raises(WeightsError, match=r"cc-by-nc-4\.0 \(no commercial use\)"):
        resolve("tu-resnet50.fb_swsl_ig1b_ft_in1k", "pretrained")


def test_what_timm_keeps_silent_about_is_not_known() -> None:
    assert terms_of_timm("x_in1k", None, None).licence == NOT_KNOWN
    assert terms_of_timm("x_in1k", "unknown", None).licence == NOT_KNOWN


def test_means_and_deviations_are_the_published_ones() -> None:
    assert scaling_of("efficientnet-b0.advprop") == ((0.5,) * 3, (0.5,) * 3)
    assert scaling_of("timm-tf_efficientnet_lite0.imagenet")[0] == (0.5,) * 3
    assert scaling_of("vgg19.imagenet") == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    mean, std = scaling_of("dpn68.imagenet")
    assert mean == pytest.approx((0.48627451, 0.45882353, 0.40784314))
    assert std == pytest.approx((0.23482447,) * 3)


def test_local_files_and_folders(tmp_path: Path) -> None:
    (tmp_path / "resnet18.pth").write_bytes(b"x")
    (tmp_path / "vgg19.imagenet.safetensors").write_bytes(b"x")
    (tmp_path / "readme.txt").write_bytes(b"x")
    info = resolve("resnet18", tmp_path)
    assert info is not None
    assert (info.kind, info.source) == ("file", str(tmp_path / "resnet18.pth"))
    assert info == resolve("resnet18", str(tmp_path / "resnet18.pth"))
    info = resolve("vgg19", tmp_path)
    assert info is not None
    assert info.filename == "vgg19.imagenet.safetensors"
    assert available(info)
    assert fetch(info, tmp_path / "unused") == tmp_path / "vgg19.imagenet.safetensors"
    assert not (tmp_path / "unused").exists()
    assert resolve("inceptionresnetv2", _touch(tmp_path / "any.pt")).mean == (0.5,) * 3  # type: ignore[union-attr]


def _touch(path: Path) -> Path:
    path.write_bytes(b"x")
    return path


def test_wrong_paths_are_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"e\.g\. resnet18\.safetensors.*it contains none"):
        resolve("resnet18", tmp_path)
    _touch(tmp_path / "resnet18.a.pth"), _touch(tmp_path / "resnet18.b.pth")
    with pytest.raises(WeightsError, match=r"contains several: resnet18\.a\.pth, resnet18\.b\.pth"):
        resolve("resnet18", tmp_path)
    with pytest.raises(WeightsError, match="no such file or folder"):
        resolve("resnet18", tmp_path / "imagenet")
    with pytest.raises(WeightsError, match=r"for resnet18; available: .*encoder_weights=swsl"):
        resolve("resnet18", "noisy-student")
    with pytest.raises(WeightsError, match=r"weights files end in \.safetensors"):
        resolve("resnet18", _touch(tmp_path / "resnet18.onnx"))
    with pytest.raises(ValueError, match="unknown encoder 'resnet19'"):
        resolve("resnet19", "none")
    with pytest.raises(WeightsError, match="encoder_weights=none"):
        resolve("tu-resnet19", "pretrained")
    info = replace(_info(), kind="file", source=str(tmp_path / "gone.pth"))
    assert not available(info)
    with pytest.raises(WeightsError, match="no such file"):
        fetch(info, tmp_path)


# fetch


def test_forty_workers_fetch_once(hub: Any, tmp_path: Path) -> None:
    info, cache = _info(), tmp_path / "cache"
    assert available(info, cache)
    with ThreadPoolExecutor(40) as pool:
        paths = set(pool.map(lambda _: fetch(info, cache), range(40)))
    assert paths == {cache / "resnet152.imagenet.safetensors"}
    assert hub.asked["GET", "model.safetensors"] == 1
    assert torch.equal(load_file(paths.pop())["conv1.weight"], torch.arange(6.0))
    record = json.loads((cache / "resnet152.imagenet.safetensors.json").read_text())
    assert record["sha256"] == hub.digests["model.safetensors"]
    assert record["revision"] == COMMIT
    assert record["source"] == "smp-hub/resnet152.imagenet"
    visible = {path.name for path in cache.iterdir() if not path.name.endswith(".lock")}
    assert visible == {"resnet152.imagenet.safetensors", "resnet152.imagenet.safetensors.json"}


def test_afterwards_no_network_is_needed(
    hub: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = _info()
    path = fetch(info, tmp_path)
    asked = sum(hub.asked.values())
    assert fetch(info, tmp_path) == path
    assert "in the cache" in available(info, tmp_path).message
    assert sum(hub.asked.values()) == asked
    # The cache is a folder of local weights, with what was written down about them.
    local = resolve("resnet152", tmp_path)
    assert local is not None
    assert (local.source, local.revision, local.mean) == (str(path), COMMIT, info.mean)
    assert local.terms == info.terms


@pytest.mark.parametrize("encoder", ["resnet152", "resnest269"])
def test_the_identity_is_the_same_before_and_after_fetching(
    encoder: str, hub: Any, tmp_path: Path
) -> None:
    info = _info(encoder)
    before = identify(info, tmp_path)
    digest = hub.digests["model.safetensors"]
    assert before.identity == f"{info.source}@{COMMIT}#{digest}"
    assert hub.asked["GET", "model.safetensors"] == 0
    fetch(info, tmp_path)
    asked = sum(hub.asked.values())
    assert identify(info, tmp_path).identity == before.identity
    assert sum(hub.asked.values()) == asked
    # a plan made long ago names a revision: it is that one which is fetched
    if info.revision is None:
        assert pinned(info, before.identity) == before
        assert fetch(before, tmp_path) == fetch(info, tmp_path)
    assert pinned(info, "elsewhere/resnet152@1#2") is None


def test_other_bytes_than_planned_are_not_fetched(hub: Any, tmp_path: Path) -> None:
    planned = replace(_info(), sha256="1" * 64)
    with pytest.raises(WeightsError, match=r"is damaged: its SHA-256 .* not 1111"):
        fetch(planned, tmp_path)


def test_a_broken_or_outdated_cache_is_fetched_again(hub: Any, tmp_path: Path) -> None:
    info = _info()
    path = fetch(info, tmp_path)
    path.write_bytes(path.read_bytes()[:-1])
    assert (
        hashlib.sha256(fetch(info, tmp_path).read_bytes()).hexdigest()
        == (hub.digests["model.safetensors"])
    )
    fetch(replace(info, revision="f" * 40), tmp_path)
    assert hub.asked["GET", "model.safetensors"] == 3


def test_a_damaged_download_is_refused(hub: Any, tmp_path: Path) -> None:
    hub.digests["model.safetensors"] = "0" * 64
    with pytest.raises(WeightsError, match="is damaged: its SHA-256"):
        fetch(_info(), tmp_path)
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".lock"] == []


def test_a_scaling_that_is_not_the_known_one_is_refused(hub: Any, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"inceptionresnetv2.* gives mean"):
        fetch(_info("inceptionresnetv2"), tmp_path)


def test_timm_weights_are_not_pinned_but_recorded(hub: Any, tmp_path: Path) -> None:
    info = _info("resnest269")
    path = fetch(info, tmp_path)
    assert fetch(info, tmp_path) == path
    assert hub.asked["GET", "model.safetensors"] == 1
    local = resolve("resnest269", tmp_path)
    assert local is not None
    assert local.revision == COMMIT


def test_addresses_with_a_digest(hub: Any, tmp_path: Path) -> None:
    digest = hub.digests["model.safetensors"]
    url = f"{hub.url}/models/model.safetensors"
    info = replace(_info(), kind="url", source=url, revision=digest[:8])
    assert available(info)
    assert fetch(info, tmp_path).read_bytes() == hub.files["model.safetensors"]
    wrong = replace(info, name="other", revision="00000000")
    with pytest.raises(WeightsError, match="is damaged"):
        fetch(wrong, tmp_path)


def test_without_network_the_two_ways_out_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    url = replace(_info(), kind="url", source="http://127.0.0.1:9/a-00000000.pth")
    for info in (_info(), url):
        answer = available(info, tmp_path, timeout_s=1)
        assert not answer
        assert "resnet152.imagenet cannot be fetched" in answer.message
        assert "encoder_weights=none, or a local folder" in answer.message
        assert "\n" not in answer.message
    with pytest.raises(WeightsError, match="encoder_weights=none, or a local folder"):
        fetch(_info(), tmp_path)


def test_what_the_hub_lacks_is_not_available(hub: Any) -> None:
    assert not available(replace(_info(), filename="nothing.safetensors"))
