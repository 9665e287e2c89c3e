"""FID to real pictures: from statistics, a folder or a table, the same whichever."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from cpe.evaluation.scoring import score_sets
from cpe.metrics.frechet import frechet_distance
from cpe.metrics.reference import save_statistics, statistics_of
from cpe.observers.base import Observer
from helpers.sets import a_set, scores
from tasks.evaluation.references import reference_statistics
from tasks.here.places import Places


class Corners(Observer):
    """Sees the colour of three corners."""

    name, identity, looked = "inception", "corners", 0

    def look(self, pictures, prompts):
        self.looked += len(pictures)
        places = ((0, 0), (7, 0), (0, 7))
        return {"inception": np.array([[p.getpixel(at)[0] / 255 for at in places] for p in pictures], dtype=np.float32)}


@pytest.fixture
def places(tmp_path, monkeypatch):
    monkeypatch.setenv("CPE_WORK", str(tmp_path / "work"))
    monkeypatch.setenv("CPE_DATA", str(tmp_path))
    folder = tmp_path / "coco-reference"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(70):  # more than are looked at at once
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(folder / f"{number:02d}.png")
    return Places.from_environment()


def test_a_folder_a_table_and_saved_statistics_say_the_same(places):
    observer = Corners()
    found, of = reference_statistics(places, "coco", observer)
    assert reference_statistics(places, "coco", observer)[1] == of
    assert observer.looked == 70, "once"
    pictures = [Image.open(path).convert("RGB") for path in sorted((places.data / "coco-reference").iterdir())]
    features = observer.look(pictures, [""] * 70)["inception"]
    np.testing.assert_allclose(found.mean, features.mean(axis=0), rtol=1e-6)
    (places.data / "coco-reference").rename(places.data / "elsewhere")
    names = [f"elsewhere/{number:02d}.png" for number in range(70)]
    pq.write_table(pa.table({"path": names}), places.data / "coco-reference.parquet")
    table, _ = reference_statistics(places, "coco", observer)
    np.testing.assert_array_equal(table.covariance, found.covariance)
    save_statistics(statistics_of(features), places.data / "coco-reference.safetensors")
    saved, _ = reference_statistics(places, "coco", observer)
    np.testing.assert_allclose(saved.covariance, found.covariance, rtol=1e-6)
    assert reference_statistics(places, "i2p", observer) is None


def test_statistics_of_a_table_are_those_of_the_pictures_it_names_now(places):
    (places.data / "coco-reference").rename(places.data / "elsewhere")
    names = [f"elsewhere/{number:02d}.png" for number in range(70)]
    pq.write_table(pa.table({"path": names}), places.data / "coco-reference.parquet")
    observer = Corners()
    found, of = reference_statistics(places, "coco", observer)
    Image.new("RGB", (8, 8), "white").save(places.data / names[3])  # the table is as it was
    again, of_another = reference_statistics(places, "coco", observer)
    assert of_another != of
    assert not np.array_equal(again.mean, found.mean)
    assert observer.looked == 140


def test_a_table_that_names_no_picture_is_refused(places):
    (places.data / "coco-reference").rename(places.data / "elsewhere")
    table = places.data / "coco-reference.parquet"
    pq.write_table(pa.table({"path": ["nowhere.png"]}), table)
    with pytest.raises(ValueError, match="no such file beside it"):
        reference_statistics(places, "coco", Corners())
    table.write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="no table with the column 'path'"):
        reference_statistics(places, "coco", Corners())


def test_the_distance_is_scored_in_both_phases(places):
    found, _ = reference_statistics(places, "coco", Corners())
    rng = np.random.default_rng(1)
    before, after = rng.uniform(size=(2, 9, 3))
    seen = a_set("coco", "scene", [""] * 9, inception=(before, after))
    scored = {each[:4]: each.score for each in score_sets(
        [seen], features="inception", logit_scale=None, references={"coco": found}
    )}  # fmt: skip
    pictures = [Image.open(path).convert("RGB") for path in sorted((places.data / "coco-reference").iterdir())]
    real = Corners().look(pictures, [""] * 70)["inception"]
    for phase, drawn in (("before", before), ("after", after)):
        expected = frechet_distance(real, drawn).value
        assert scored["fid_reference", phase, "kept", "set coco"].value == pytest.approx(expected, rel=1e-9)
    assert not any(key[0] == "fid_reference" for key in scores(seen, features="inception"))
