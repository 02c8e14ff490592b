"""The pretraining recipe on a few made-up pixels: what it learns from, that it resumes, that it tells a collapse."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))  # the benchmarks are run from the checkout and are in no wheel

pytest.importorskip("benchmarks.pretraining")

from benchmarks.pretraining import data as pretraining_data  # noqa: E402
from benchmarks.pretraining.curves import append_record, cost, draw_curves, read_records  # noqa: E402
from benchmarks.pretraining.data import CropSampler, Source, allowed_patches, tissue_cells  # noqa: E402
from benchmarks.pretraining.export import export_weights, load_encoder  # noqa: E402
from benchmarks.pretraining.loop import CollapsedRun, Recipe, Run, effective_rank, learning_rate, saved_recipe  # noqa: E402
from benchmarks.pretraining.model import Whitening, build_encoder, encode, window_positions  # noqa: E402
from benchmarks.pretraining.stain import chain, draw_jitter, mix, optical_density, transmitted  # noqa: E402
from benchmarks.pretraining.targets import coherence, patch_statistics, patchify, tile_statistics  # noqa: E402

INDEX_HEADER = "file,mask,class,slide,x_level0,y_level0,width,height\n"
WEIGHTS = ROOT / "resources/backbones/weights/pathotune-tiny.safetensors"


@pytest.fixture(scope="module")
def sources() -> list[Source]:
    rng = np.random.default_rng(0)
    pixels = rng.integers(40, 220, (512, 640, 3), dtype=np.uint8)
    tissue = np.ones((32, 40), dtype=bool)
    return [Source("a", pixels, 0.5, tissue, 0.7), Source("b", pixels[:300, :300].copy(), 0.25, tissue[:18, :18], 0.3)]


def tiny(**changes: object) -> Recipe:
    numbers = {
        "steps": 4, "final_steps": 2, "cooldown": 2, "warmup": 1, "tiles": 2, "final_tiles": 2, "side": 64,
        "final_side": 96, "depth": 2, "least_rank": 0.0, "report_every": 2, "save_every": 2,
    }  # fmt: skip
    return Recipe(**{**numbers, **changes})


def test_no_patch_reaches_into_the_test_half(tmp_path: Path) -> None:
    first_test_row = pretraining_data.FIRST_TEST_ROW
    rows = [
        f"above.png,,tumor,tumor_001,70000,{first_test_row - 512},512,512",
        f"one_row.png,,tumor,tumor_001,70000,{first_test_row - 511},512,512",
        f"below.png,,tumor,tumor_001,70000,{first_test_row + 100},512,512",
        f"other_slide.png,,normal,normal_001,70000,{first_test_row + 100},512,512",
    ]
    index = tmp_path / "index.csv"
    index.write_text(INDEX_HEADER + "\n".join(rows) + "\n")
    assert [name for name, _ in allowed_patches(index)] == ["above.png", "other_slide.png"]


def test_the_real_sources_hold_no_test_pixels(shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[tuple[Path, float]] = []

    def remember(path: Path, mpp: float, height_share: float = 1.0) -> np.ndarray:
        opened.append((path, height_share))
        return np.full((64, 64, 3), 120, dtype=np.uint8)

    monkeypatch.setattr(pretraining_data, "_slide_pixels", remember)
    monkeypatch.setattr(pretraining_data, "generated_sources", list)
    pretraining_data.load_sources(shared_data)
    names = [path.name for path, _ in opened]
    assert not [name for name in names if "C4" in name or name.startswith("tumor_001")]
    assert not [path for path, _ in opened if "kather" in str(path)]
    assert dict(opened)[shared_data / "wsi/camelyon16_tumor001_mosaic.tiff"] == 0.5


def test_crops_agree_with_the_tile_reader(tmp_path: Path) -> None:
    from PIL import Image

    from pathotune.slides import open_slide
    from pathotune.tiles import Reading, TileReader

    rng = np.random.default_rng(1)
    smooth = np.asarray(Image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)).resize((480, 480)))
    Image.fromarray(smooth).save(tmp_path / "slide.png")
    sampler = CropSampler([Source("a", smooth, 0.5, tissue_cells(smooth), 1.0)], side=64)
    crop = pretraining_data.Crop(200.0, 180.0, 0.8)
    ours = sampler._resized(sampler.sources[0], crop)
    with open_slide(tmp_path / "slide.png", mpp=0.5) as slide, TileReader(slide, Reading(0.8, 64, 64)) as reader:
        corner = 64 * 0.8 / 0.5 / 2
        theirs = reader.read_at(200.0 - corner, 180.0 - corner)[0]
    difference = np.abs(ours.astype(int) - theirs.astype(int))
    assert difference[2:-2, 2:-2].max() <= 2  # the reader also looks at the pixels around the tile


def test_batches_repeat_and_differ(sources: list[Source]) -> None:
    sampler = CropSampler(sources, 64)
    assert torch.equal(sampler.batch(3, 0, 5), sampler.batch(3, 0, 5))
    assert not torch.equal(sampler.batch(3, 0, 5), sampler.batch(3, 0, 6))


def test_stain_jitter_without_strength_changes_nothing() -> None:
    images = torch.rand(2, 3, 32, 32) * 0.9 + 0.05
    still = draw_jitter(2, 0.0, 0.0, 0.0, torch.Generator().manual_seed(0))
    assert torch.allclose(transmitted(mix(optical_density(images), *still)), images, atol=1e-4)


def test_two_jitters_in_a_chain_are_one_after_the_other() -> None:
    density = torch.rand(3, 3, 8, 8)
    generator = torch.Generator().manual_seed(0)
    first, second = draw_jitter(3, 0.4, 0.05, 0.1, generator), draw_jitter(3, 0.2, 0.05, 0.1, generator)
    assert torch.allclose(mix(mix(density, *first), *second), mix(density, *chain(first, second)), atol=1e-4)


def test_patches_lie_as_timm_reads_them() -> None:
    encoder = build_encoder(depth=1)
    images = torch.rand(1, 3, 224, 224)
    ours, _ = encode(encoder, patchify(images), window_positions(torch.zeros(1, 2, dtype=torch.long), 14))
    assert torch.allclose(ours, encoder.forward_features(images), atol=1e-5)


def test_statistics_are_finite_on_blank_and_black_tiles() -> None:
    for images in (torch.ones(1, 3, 64, 64), torch.zeros(1, 3, 64, 64)):
        density = optical_density(images)
        assert torch.isfinite(tile_statistics(density)).all()
        assert torch.isfinite(patch_statistics(images, density)).all()


def test_fibres_have_a_direction_and_a_crowd_has_none() -> None:
    torch.manual_seed(0)
    crowd = torch.nn.functional.interpolate(torch.rand(1, 1, 16, 16), size=(64, 64), mode="bilinear")
    fibres = torch.rand(1, 1, 64, 1).expand(1, 1, 64, 64)
    assert float(coherence(fibres)) > 0.9
    assert float(coherence(crowd)) < 0.3


def test_whitening_gives_weak_directions_their_weight() -> None:
    torch.manual_seed(0)
    whiten, scales = Whitening(3), torch.tensor([1.0, 0.5, 0.2])
    for _ in range(40):
        whiten.update(torch.randn(256, 3) * scales)
    spread = whiten(torch.randn(4000, 3) * scales).std(dim=0)
    assert torch.allclose(spread, torch.ones(3), atol=0.2)


def test_effective_rank_counts_directions() -> None:
    torch.manual_seed(0)
    assert effective_rank(torch.ones(20, 8)) == 0.0
    assert effective_rank(torch.randn(50, 1) @ torch.randn(1, 8)) == pytest.approx(1.0, abs=0.01)
    assert effective_rank(torch.randn(4000, 8)) > 7.5


def test_learning_rate_rises_stays_and_falls() -> None:
    recipe = Recipe(steps=100, cooldown=20, warmup=10, learning_rate=1.0)
    assert learning_rate(recipe, 0) < learning_rate(recipe, 9) == learning_rate(recipe, 50) == 1.0
    assert learning_rate(recipe, 99) < 0.1


@pytest.mark.slow
def test_a_resumed_run_ends_where_an_unbroken_one_does(sources: list[Source], tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    whole = Run(tiny(), sources, tmp_path / "one")
    records = list(whole.train())
    assert np.isnan(records[0]["latent"])  # the first stage has no teacher
    assert np.isfinite(records[1]["latent"])
    broken = Run(tiny(), sources, tmp_path / "two")
    stream = broken.train()
    next(stream)
    broken.save()
    stream.close()
    resumed = Run(tiny(), sources, tmp_path / "two")
    resumed.load(tmp_path / "two/state.safetensors")
    assert resumed.step == 2
    list(resumed.train())
    for ours, theirs in zip(whole.model.state_dict().values(), resumed.model.state_dict().values(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6)
    assert saved_recipe(tmp_path / "two/state.safetensors").steps == 4


def test_a_run_can_begin_with_exported_weights(sources: list[Source], tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    first = Run(tiny(), sources, tmp_path / "first")
    list(first.train())
    weights = tmp_path / "first/weights.safetensors"
    export_weights(tmp_path / "first/state.safetensors", weights)
    second = Run(tiny(seed=1), sources, tmp_path)
    second.begin_from(weights)
    assert second.recipe.mean == first.recipe.mean  # the pixels that the weights know, not those of this seed
    for begun in (second.model.student, second.model.teacher):
        for ours, theirs in zip(begun.parameters(), first.model.teacher.parameters(), strict=True):
            assert torch.allclose(ours, theirs, atol=1e-2)  # float16 in the file
    list(second.train())
    assert len(saved_recipe(tmp_path / "state.safetensors").begun_from) == 64
    resumed = Run(tiny(seed=1), sources, tmp_path)
    resumed.load(tmp_path / "state.safetensors")
    assert resumed.recipe.begun_from == second.recipe.begun_from


def test_a_collapsed_run_says_so(sources: list[Source], tmp_path: Path) -> None:
    run = Run(tiny(steps=6, least_rank=150.0), sources, tmp_path)
    with pytest.raises(CollapsedRun, match="has collapsed"):
        list(run.train())


def test_exported_weights_load_strictly_into_timm(sources: list[Source], tmp_path: Path) -> None:
    run = Run(tiny(), sources, tmp_path)
    run.save()
    output = tmp_path / "weights.safetensors"
    facts = export_weights(tmp_path / "state.safetensors", output)
    encoder, read = load_encoder(output)
    assert read == facts
    assert json.loads(facts["mean"]) == run.recipe.mean
    images = torch.rand(1, 3, 224, 224)
    assert torch.allclose(encoder(images), run.model.teacher(images), atol=2e-2)


def test_curves_keep_the_later_record_of_a_step(tmp_path: Path) -> None:
    names = ("pixel", "patch", "tile", "latent", "summary", "correlation", "rank")
    for step, value in ((1, 1.0), (2, 2.0), (2, 3.0)):
        append_record(tmp_path / "curves.csv", {"step": float(step), **dict.fromkeys(names, value)})
    assert read_records(tmp_path / "curves.csv")["rank"] == [1.0, 3.0]
    pytest.importorskip("matplotlib")
    draw_curves(tmp_path / "curves.csv", tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 1000


def test_the_shipped_weights_fit_the_architecture() -> None:
    if not WEIGHTS.exists():
        pytest.skip("the weights do not ship in this checkout")
    assert WEIGHTS.stat().st_size <= 15_000_000
    encoder, facts = load_encoder(WEIGHTS)
    plain = VisionTransformer(img_size=224, patch_size=16, embed_dim=192, depth=12, num_heads=3, num_classes=0)
    assert set(plain.state_dict()) == set(encoder.state_dict())
    assert all(torch.isfinite(value).all() for value in encoder.state_dict().values())
    assert len(json.loads(facts["mean"])) == len(json.loads(facts["std"])) == 3


def test_the_cost_of_a_run_counts_pairs_by_stage_and_a_step_once(tmp_path: Path) -> None:
    for step, speed in ((10, 100.0), (10, 80.0), (20, 80.0), (30, 20.0)):
        append_record(tmp_path / "curves.csv", {"step": float(step), "views_per_second": speed})
    views, minutes = cost(tmp_path / "curves.csv", tiles=8, final_tiles=2, final_from=20)
    assert views == 2 * 160 + 40 and minutes == pytest.approx((160 / 80 + 160 / 80 + 40 / 20) / 60)
