"""What is seen shard after shard comes back whole and in order; wide values are not held in memory meanwhile."""

import numpy as np

from tasks.evaluation.gather import Gathered


def test_what_was_added_shard_by_shard_comes_back_by_set_and_phase_in_order(tmp_path):
    rng = np.random.default_rng(0)
    drawn = {
        (of, phase): rng.normal(size=(7, 5)).astype(np.float32)
        for of in ("kept", "coco")
        for phase in ("before", "after")
    }
    gathered = Gathered(tmp_path)
    for start, stop in ((0, 3), (3, 7)):
        for (of, phase), features in drawn.items():
            part = {"inception": features[start:stop], "noun": np.array([of] * (stop - start))}
            gathered.add(of, phase, part)
    for (of, phase), features in drawn.items():
        found = gathered.of(of, phase)
        np.testing.assert_array_equal(found["inception"], features)
        assert isinstance(found["inception"], np.memmap)
        assert found["noun"].tolist() == [of] * 7
    assert gathered.of("erased", "before") == {}
