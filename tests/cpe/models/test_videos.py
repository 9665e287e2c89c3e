"""Videos: each is drawn once for the frames that are kept of it, and written so that players read it."""

import av
import numpy as np
import pytest
from PIL import Image

from cpe.models.drawing import PictureJob, generate
from cpe.models.videos import can_write, write_video
from cpe.terms.profiles import PROFILES, Profile
from helpers.tiny_transformers import shared_transformer

SMALL = Profile(name="small", steps=2, guidance_scale=3.0, height=16, width=16, batch=2, frames=5, frames_kept=2)
SIZES = {"wan": (16, 5), "ltx": (32, 9), "latte": (16, 1)}  # Allegro's decoder works in tiles alone, larger than these


def jobs_of(profile, *seeds):
    return [
        PictureJob(f"{seed}-{frame}", "a tiger on a tree", seed, frame=frame)
        for seed in seeds
        for frame in profile.kept
    ]


@pytest.mark.parametrize("kind", SIZES)
def test_every_family_of_videos_gives_its_frames(kind):
    size, frames = SIZES[kind]
    changes = {"height": size, "width": size, "frames": frames, "frames_kept": 2, "batch": 1}
    profile, whole = SMALL.model_copy(update=changes), []
    drawn = list(
        generate(
            shared_transformer(kind), jobs_of(profile, 0), profile, videos=lambda job, video: whole.append((job, video))
        )
    )
    ((first, video),) = whole
    assert first == drawn[0][0]
    assert len(video) == frames
    assert [job.frame for job, _ in drawn] == list(profile.kept)
    for job, picture in drawn:
        assert picture.size == (size, size)
        assert picture.tobytes() == video[job.frame].tobytes()


def test_a_video_is_the_same_in_every_batch_and_for_any_of_its_frames():
    pipe, counts = shared_transformer("wan"), []
    together = dict(generate(pipe, jobs_of(SMALL, 0, 1), SMALL, progress=counts.append))
    assert counts == [4]
    alone = list(generate(pipe, jobs_of(SMALL, 1)[1:], SMALL))
    ((job, picture),) = alone
    expected = np.asarray(together[job], dtype=int)
    assert abs(np.asarray(picture, dtype=int) - expected).max() <= 1
    assert len({each.tobytes() for each in together.values()}) == 4


def test_profile_and_pipeline_are_of_the_same_kind():
    with pytest.raises(ValueError, match=r"draws videos, profile 'quick' asks for pictures; .* such as 'video'"):
        next(generate(shared_transformer("wan"), [PictureJob("0", "a cat", 0)], PROFILES["quick"]))
    with pytest.raises(ValueError, match="draws pictures, profile 'video' asks for videos of 33 frames"):
        next(generate(shared_transformer("pixart"), [PictureJob("0", "a cat", 0, frame=0)], PROFILES["video"]))
    with pytest.raises(ValueError, match="frame must be from 0 to 4"):
        next(generate(shared_transformer("wan"), [PictureJob("0", "a cat", 0, frame=5)], SMALL))
    with pytest.raises(ValueError, match="frame must be None"):
        next(generate(shared_transformer("pixart"), [PictureJob("0", "a cat", 0, frame=0)], PROFILES["quick"]))


def test_fewer_frames_than_asked_for_are_refused():
    profile = SMALL.model_copy(update={"frames": 7})
    with pytest.raises(ValueError, match=r"asks for 7 frames, WanPipeline drew 5: .* multiple of 4"):
        next(generate(shared_transformer("wan"), jobs_of(profile, 0), profile))


def test_a_written_video_has_its_frames(tmp_path):
    assert can_write()
    shades = [0, 80, 160, 240]
    write_video(tmp_path / "a.mp4", [Image.new("RGB", (33, 18), (shade,) * 3) for shade in shades], 8)
    with av.open(str(tmp_path / "a.mp4")) as file:
        (stream,) = file.streams.video
        assert (stream.width, stream.height, stream.average_rate) == (32, 18, 8)
        read = [frame.to_ndarray(format="rgb24") for frame in file.decode(stream)]
    assert [round(float(frame.mean())) for frame in read] == pytest.approx(shades, abs=6)
