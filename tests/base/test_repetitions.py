from hypothesis import given
from hypothesis import strategies as st

from frostline.base.repetitions import Repetition, as_json, from_json, repetitions

NUMBERS = st.lists(st.integers(0, 50), min_size=1, max_size=4, unique=True)


@given(NUMBERS, st.none() | NUMBERS)
def test_what_is_written_is_read(seeds, folds):
    values = {repetition: f"{repetition}" for repetition in repetitions(seeds, folds)}
    assert len(values) == len(seeds) * len(folds or [None])
    assert from_json(as_json(values)) == values
    assert len({repetition.folder for repetition in values}) == len(values)


def test_without_folds_files_are_as_before():
    (only,) = repetitions([3], None)
    assert only.folder == "seed-3"
    assert as_json({only: 1}) == {"seeds": {"3": 1}}
    assert Repetition(1, 3).folder == "fold-1/seed-3"
