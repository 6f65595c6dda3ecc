"""What the ready schedules of conf/freeze do to a network."""

import torch

from frostline import compose
from frostline.adapters.lit_module import Classifier
from tests.tiny import Bench, tensors


def test_a_frozen_head_learns_first_and_then_stays_while_the_rest_moves(tmp_path):
    states = []

    class Watched(Classifier):
        def on_train_batch_end(self, outputs, batch, batch_idx):
            states.append(tensors(self.network))

    schedule = compose.experiment(["freeze=frozen_head"])[0].freeze.model_dump()
    bench = Bench({"freeze": schedule, "trainer.epochs": 5}, kind=Watched)
    with torch.no_grad():
        bench.network.head.weight.zero_()
    start = tensors(bench.network)
    bench.fit(tmp_path)
    probed, *_, last = states[2], states[-1]
    for name, tensor in start.items():
        moves_first = not torch.equal(tensor, probed[name])
        moves_later = not torch.equal(probed[name], last[name])
        assert (moves_first, moves_later) == (name.startswith("head."), not name.startswith("head.")), name
