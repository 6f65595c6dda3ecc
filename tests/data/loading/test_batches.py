import torch
from hypothesis import given
from hypothesis import strategies as st

from frostline.data.loading.batches import batches, sizes


@given(images=st.integers(1, 500), batch_size=st.integers(1, 64))
def test_every_image_is_in_one_batch_and_none_is_alone(images, batch_size):
    found = sizes(images, batch_size)
    assert sum(found) == images
    assert all(size == batch_size for size in found[:-1])
    assert found[-1] <= batch_size + 1
    if images > 1 and batch_size > 1:
        assert min(found) > 1


def test_batches_are_the_rows_in_order():
    rows = torch.tensor([5, 3, 8, 1, 2])
    assert [batch.tolist() for batch in batches(rows, 2)] == [[5, 3], [8, 1, 2]]
