"""People known by face: the nearest reference names them, and the folder of reference pictures is read honestly."""

import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from cpe.observers.base import Missing
from cpe.observers.faces import LONGEST_PX, WIDTH, FaceClassifier, FaceObserver
from cpe.observers.people import NO_FACE


class Colours:
    """A stand-in embedder: the first and the last pixel are faces of their colour, black is none."""

    def __init__(self, identity: str = "colours 1") -> None:
        self.identity, self.shapes = identity, list[tuple[int, ...]]()

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        assert pixels.dtype == np.uint8
        self.shapes.append(pixels.shape)
        corners = dict.fromkeys(tuple(map(int, pixels[y, x])) for y, x in ((0, 0), (-1, -1)))
        faces = [np.resize(np.array(colour) / 255, WIDTH) / 8 for colour in corners if any(colour)]
        return np.array(faces, dtype=np.float32).reshape(len(faces), WIDTH)


def plain(*colours: str) -> Image.Image:
    """Returns a picture with one colour above, another below."""
    picture = Image.new("RGB", (8, 8), colours[-1])
    picture.paste(Image.new("RGB", (8, 4), colours[0]))
    return picture


def save(folder: Path, name: str, *colours: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    plain(*colours).save(path)
    return path


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    folder = tmp_path / "faces"
    save(folder, "Ann_Other/1.png", "red")
    save(folder, "Bob/1.png", "lime")
    save(folder, "Bob/2.png", "yellow")
    return folder


def names(observer: FaceObserver, *pictures: Image.Image) -> list[str]:
    return observer.look(pictures, [""] * len(pictures))["identity"].tolist()


def test_the_nearest_reference_names_the_picture_as_a_plain_search_does() -> None:
    rng = np.random.default_rng(0)
    references = rng.normal(size=(12, WIDTH)) / 20
    people = tuple(f"person {i // 3}" for i in range(12))
    classifier = FaceClassifier(people, references, threshold=0.6)
    outcomes = set()
    for repeat in range(60):
        shown = references[rng.integers(12, size=repeat % 4)] + rng.normal(size=(repeat % 4, WIDTH)) / 19
        seen = classifier.recognise(shown.astype(np.float32))
        apart = [(float(np.sqrt(((face - references[r]) ** 2).sum())), people[r]) for face in shown for r in range(12)]
        distance, name = min(apart, default=(1.0, ""))
        assert seen.name == (name if distance <= 0.6 else "")
        assert seen.score == pytest.approx(max(0.0, 1 - distance), abs=1e-6)  # faces are float32
        assert seen.faces == len(shown)
        outcomes.add((seen.faces > 0, seen.name != ""))
    assert outcomes == {(False, False), (True, False), (True, True)}


def test_the_threshold_itself_is_near_enough_and_anything_above_is_not() -> None:
    classifier = FaceClassifier(("Ann",), np.zeros((1, WIDTH)), threshold=0.5)
    face = np.zeros((1, WIDTH))
    face[0, 0] = 0.5
    assert classifier.recognise(face) == ("Ann", 0.5, 1)
    face[0, 0] = np.nextafter(0.5, 1)
    assert classifier.recognise(face).name == ""
    face[0, 0] = 7.0
    assert classifier.recognise(face) == ("", 0.0, 1)
    assert classifier.recognise(np.zeros((0, WIDTH), dtype=np.float32)) == NO_FACE


def test_the_order_of_references_and_faces_does_not_matter() -> None:
    rng = np.random.default_rng(1)
    references, shown = rng.normal(size=(9, WIDTH)) / 25, rng.normal(size=(4, WIDTH)) / 25
    people = tuple(f"person {i // 2}" for i in range(9))
    seen = FaceClassifier(people, references, threshold=9).recognise(shown)
    for _ in range(5):
        order, turned = rng.permutation(9), rng.permutation(4)
        shuffled = FaceClassifier(tuple(people[i] for i in order), references[order], threshold=9)
        assert shuffled.recognise(shown[turned]) == seen


def test_people_of_the_folder_are_recognised_strangers_are_not_and_faces_are_counted(
    faces: Path, tmp_path: Path
) -> None:
    observer = FaceObserver.open(faces, cache=tmp_path / "cache", embedder=Colours())
    assert (observer.name, observer.labels, observer.notes) == ("identity", ("Ann_Other", "Bob"), ())
    pictures = [plain("red"), plain("yellow"), plain("black"), plain("white", "blue"), plain("blue", "lime")]
    values = observer.look(pictures, [""] * 5)
    assert values["identity"].tolist() == ["Ann_Other", "Bob", "", "", "Bob"]
    assert values["faces"].tolist() == [1, 1, 0, 2, 2]
    assert values["identity_score"][[0, 1, 2, 4]] == pytest.approx([1, 1, 0, 1])
    assert 0 < values["identity_score"][3] < 0.5
    for index, picture in enumerate(pictures):
        alone = observer.look([picture], [""])
        assert all(alone[key][0] == values[key][index] for key in values)
    assert names(observer) == []


def test_a_stricter_threshold_recognises_fewer(faces: Path, tmp_path: Path) -> None:
    orange = plain("orange")
    near = FaceObserver.open(faces, cache=tmp_path / "cache", threshold=0.6, embedder=Colours())
    nearer = FaceObserver.open(faces, cache=tmp_path / "cache", threshold=0.1, embedder=Colours())
    assert (names(near, orange), names(nearer, orange)) == (["Bob"], [""])
    with pytest.raises(ValueError, match=r"threshold must be above 0, got 0; dlib advises 0\.6"):
        FaceObserver.open(faces, cache=tmp_path / "cache", threshold=0)


def test_folders_of_one_name_are_one_person_and_other_files_are_left_alone(faces: Path, tmp_path: Path) -> None:
    save(faces, "ann other/1.PNG", "blue")
    save(faces, ".trash/1.png", "white")
    (faces / "read me.txt").write_text("faces")
    (faces / "Bob" / "source.txt").write_text("where the pictures are from")
    observer = FaceObserver.open(faces, cache=tmp_path / "cache", embedder=Colours())
    assert (observer.labels, observer.notes) == (("Ann_Other", "Bob"), ())
    assert names(observer, plain("blue"), plain("white")) == ["Ann_Other", ""]


def test_of_several_faces_on_a_reference_the_largest_counts(faces: Path, tmp_path: Path) -> None:
    save(faces, "Cid/1.png", "blue", "white")
    observer = FaceObserver.open(faces, cache=tmp_path / "cache", embedder=Colours())
    assert names(observer, plain("blue"), plain("white")) == ["Cid", ""]


def test_references_are_turned_as_the_camera_was_held_and_made_small(faces: Path, tmp_path: Path) -> None:
    upside_down = Image.Exif()
    upside_down[0x0112] = 3
    (faces / "Cid").mkdir()
    plain("blue", "white").save(faces / "Cid" / "1.png", exif=upside_down)
    Image.new("L", (3000, 1500), 255).save(faces / "Bob" / "large.jpg")
    embedder = Colours()
    observer = FaceObserver.open(faces, cache=tmp_path / "cache", embedder=embedder)
    assert names(observer, plain("white"), plain("blue")) == ["Bob", ""]
    assert (LONGEST_PX // 2, LONGEST_PX, 3) in embedder.shapes
    assert max(max(shape) for shape in embedder.shapes) == LONGEST_PX


def test_unusable_pictures_are_noted_while_the_person_has_another(faces: Path, tmp_path: Path) -> None:
    save(faces, "Bob/3.png", "black")
    whole = save(faces, "Bob/4.png", "lime").read_bytes()
    (faces / "Bob" / "4.png").write_bytes(whole[: len(whole) // 2])
    (faces / "Bob" / "5.jpg").write_text("no picture")
    observer = FaceObserver.open(faces, cache=tmp_path / "cache", embedder=Colours())
    assert [note.partition(" ")[0] for note in observer.notes] == ["Bob/3.png", "Bob/4.png", "Bob/5.jpg"]
    assert observer.notes[0] == "Bob/3.png shows no face, left out"
    assert "cannot be read" in observer.notes[1]
    assert names(observer, plain("yellow")) == ["Bob"]


def test_people_without_any_face_are_all_named_in_one_line(faces: Path, tmp_path: Path) -> None:
    save(faces, "Cid/1.png", "black")
    (faces / "Dora").mkdir()
    with pytest.raises(Missing, match="no face was found on any reference picture of Cid, Dora; put a clear") as raised:
        FaceObserver.open(faces, cache=tmp_path / "cache", embedder=Colours())
    assert "\n" not in str(raised.value)


def test_without_a_folder_the_message_says_where_pictures_go(tmp_path: Path) -> None:
    folder = tmp_path / "faces"
    with pytest.raises(Missing, match=r"there is no folder .*faces; put reference pictures into .*faces/<Name>/"):
        FaceObserver.open(folder, cache=tmp_path / "cache", embedder=Colours())
    folder.mkdir()
    with pytest.raises(Missing, match=r"holds no person's folder; put reference pictures into"):
        FaceObserver.open(folder, cache=tmp_path / "cache", embedder=Colours())


def test_a_reference_is_embedded_once_wherever_it_lies(faces: Path, tmp_path: Path) -> None:
    save(faces, "Bob/3.png", "black")
    embedder, cache = Colours(), tmp_path / "new" / "cache"
    first = FaceObserver.open(faces, cache=cache, embedder=embedder)
    assert len(embedder.shapes) == 4
    (faces / "Bob" / "2.png").rename(faces / "Bob" / "two.png")
    again = FaceObserver.open(faces, cache=cache, embedder=embedder)
    assert len(embedder.shapes) == 4
    assert again.identity == first.identity
    assert names(again, plain("yellow"), plain("red")) == ["Bob", "Ann_Other"]
    save(faces, "Bob/1.png", "blue")
    changed = FaceObserver.open(faces, cache=cache, embedder=embedder)
    assert names(changed, plain("blue"), plain("lime")) == ["Bob", ""]
    FaceObserver.open(faces, cache=cache, embedder=Colours("colours 2"))
    kept = list(cache.iterdir())
    assert len(kept) == 4 + 1 + 4
    assert {path.suffix for path in kept} == {".safetensors"}


def test_a_damaged_cache_is_made_again(faces: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    FaceObserver.open(faces, cache=cache, embedder=Colours())
    for path in cache.iterdir():
        path.write_bytes(path.read_bytes()[:20])
    embedder = Colours()
    assert names(FaceObserver.open(faces, cache=cache, embedder=embedder), plain("red")) == ["Ann_Other"]
    FaceObserver.open(faces, cache=cache, embedder=embedder)
    assert len(embedder.shapes) == 3 + 1


def test_identity_changes_with_whatever_changes_the_values(faces: Path, tmp_path: Path) -> None:
    def identity(embedder: str = "colours 1", threshold: float = 0.6) -> str:
        return FaceObserver.open(
            faces, cache=tmp_path / "cache", threshold=threshold, embedder=Colours(embedder)
        ).identity

    before = identity()
    assert before == identity()
    others = [identity("colours 2"), identity(threshold=0.5)]
    save(faces, "Bob/0.png", "black")
    assert identity() == before
    save(faces, "Bob/1.png", "white")
    others.append(identity())
    save(faces, "Bob/4.png", "blue")
    others.append(identity())
    (faces / "Bob").rename(faces / "Bobby")
    others.append(identity())
    assert len({before, *others}) == 6


def test_the_order_in_which_the_disk_lists_folders_does_not_matter(
    faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, listed = set(), Path.iterdir
    for backwards in (False, True):
        monkeypatch.setattr(Path, "iterdir", lambda folder, b=backwards: iter(sorted(listed(folder), reverse=b)))
        observer = FaceObserver.open(faces, cache=tmp_path / "cache", embedder=Colours())
        seen.add((observer.labels, observer.identity))
    assert len(seen) == 1


def test_without_dlib_the_line_names_the_extra(faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dlib", None)
    with pytest.raises(Missing, match=r"pip install 'concept-pinpoint-eraser\[faces\]'") as raised:
        FaceObserver.open(faces, cache=tmp_path / "cache")
    assert "\n" not in str(raised.value)


def test_dlib_finds_no_face_in_noise(tmp_path: Path) -> None:
    pytest.importorskip("dlib")
    pytest.importorskip("face_recognition_models")
    noise = np.random.default_rng(0).integers(256, size=(512, 512, 3), dtype=np.uint8)
    (tmp_path / "faces" / "Noise").mkdir(parents=True)
    Image.fromarray(noise).save(tmp_path / "faces" / "Noise" / "1.png")
    with pytest.raises(Missing, match="reference picture of Noise"):
        FaceObserver.open(tmp_path / "faces", cache=tmp_path / "cache")


def test_dlib_knows_a_person_again_smaller_mirrored_and_compressed(tmp_path: Path) -> None:
    pytest.importorskip("dlib")
    pytest.importorskip("face_recognition_models")
    astronaut = Image.fromarray(pytest.importorskip("skimage.data").astronaut())
    (tmp_path / "faces" / "Eileen Collins").mkdir(parents=True)
    astronaut.save(tmp_path / "faces" / "Eileen Collins" / "1.png")
    observer = FaceObserver.open(tmp_path / "faces", cache=tmp_path / "cache")
    astronaut.resize((360, 360)).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(tmp_path / "again.jpg", quality=60)
    with Image.open(tmp_path / "again.jpg") as again:
        values = observer.look([astronaut, again, astronaut.crop((256, 256, 512, 512))], [""] * 3)
    assert values["identity"].tolist() == ["Eileen Collins", "Eileen Collins", ""]
    assert values["faces"].tolist() == [1, 1, 0]
    assert values["identity_score"][0] > 0.999
    assert FaceObserver.open(tmp_path / "faces", cache=tmp_path / "cache").identity == observer.identity
