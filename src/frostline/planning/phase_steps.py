"""Single optimizer steps of a phase, without Lightning: no validation, no checkpoints, any learning rate.

The range test takes them at increasing learning rates; `frostline plan --time` measures how long they take.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import count

import torch
from torch import Tensor, nn

from frostline.base.seeds import derive, seed_dropout
from frostline.features.execution import device_of
from frostline.features.reuse import FeatureExtractor
from frostline.features.split_point import NetworkSplit, NoSplit
from frostline.schema import Run
from frostline.training import param_groups, trainable
from frostline.training.feature_callback import held_on
from frostline.training.module import ReusedFeatures
from frostline.training.run import Setup


class PhaseSteps:
    """The optimizer steps of a phase, on the batches that the run draws from its first epoch on.

    Args:
        setup: network, plan and data of the run; the steps change the network.
        phase: index of the phase; the phases before it are not trained.
        features: verified split → the features of the training images, (N, …) per view. Called if the phase
            reuses features.
    """

    trains_on: str
    """What each step trains on: ``features at fc:input``, or ``the whole network: …`` with the reason."""

    def __init__(
        self,
        run: Run,
        setup: Setup,
        reuse: FeatureExtractor,
        phase: int,
        features: Callable[[NetworkSplit], Sequence[Tensor]],
    ) -> None:
        self.classifier, self.data, self.device = setup.classifier, setup.data, device_of(run.trainer.device)
        self._run, self._phase = run, phase
        size = self.classifier.plan.phases[phase].batch_size
        self.data.images_of_next_step = lambda: run.trainer.images_per_step(size)
        self.data.train_dataloader()  # it asks for the number of images
        self._enter_phase()
        self._optimizer, self._factors = self._optimizer_of_phase()
        self.reused = self._reused(reuse, features)
        self.classifier.execution = reuse.training_execution(self.classifier.network)
        self.classifier.execution.set_memory_format(self.classifier.network)

    def batches(self) -> Iterator[tuple[int, Tensor]]:
        """Yield (epoch, rows of the training images) of each step, without end."""
        return ((epoch, rows) for epoch in count() for rows in self.data.training_rows(epoch))

    def backward(self, step: int, epoch: int, rows: Tensor) -> float:
        """Compute the gradients of a step, batch by batch if they are accumulated, and return its loss."""
        seed_dropout(derive(self._run.seed, "step", step), self.device)
        self._optimizer.zero_grad()
        if self.reused:
            inputs, labels = rows, self.data.train.labels.index_select(0, rows).to(self.device)
        else:
            inputs, labels = self.data.training_images(rows, step, self.device)
        total = 0.0
        for part, truth, weight in self.data.step_batches(rows, inputs, labels):
            logits = (
                self.reused.training(part, epoch, self.device)
                if self.reused
                else self.classifier.forward(part)
            )
            loss = self.classifier.criterion(logits.float(), truth, weight) * (len(part) / len(rows))
            loss.backward()
            total += loss.item()
        if self.classifier.penalty is not None:
            penalty = self.classifier.penalty()
            penalty.backward()
            total += penalty.item()
        return total

    def update(self, rate: float) -> None:
        """Change the weights by the gradients.

        Args:
            rate: the learning rate, before the factors of the schedule's groups.
        """
        for group, factor in zip(self._optimizer.param_groups, self._factors, strict=True):
            group["lr"] = rate * factor
        if self._run.optimizer.clip_norm:
            nn.utils.clip_grad_norm_(self.classifier.network.parameters(), self._run.optimizer.clip_norm)
        self._optimizer.step()

    def _enter_phase(self) -> None:
        """Prepare the network for the phase: device, BatchNorm statistics, dropout, frozen layers."""
        network, plan, phase = self.classifier.network, self.classifier.plan, self._phase
        network.to(self.device)
        dropout = trainable.Dropout(network)
        dropout.check(plan)
        if plan.phases[phase].bn == "recalibrate":
            trainable.recalibrate(network, plan, phase, self.data.epoch_images(0, 0, self.device))
        dropout.set(plan.phases[phase].dropout, plan.phases[phase].drop_path)
        trainable.apply_phase(network, plan, phase)

    def _optimizer_of_phase(self) -> tuple[torch.optim.Optimizer, list[float]]:
        """Return the run's optimizer, and the factor of the learning rate of each of its groups."""
        plan, optimizer = self.classifier.plan, self.classifier.configure_optimizers()
        param_groups.check_options(plan, optimizer.param_groups[0])
        slots, groups = param_groups.split(plan, self.classifier.network, optimizer.param_groups)
        optimizer.param_groups[:] = groups
        factors = []
        for slot, group in zip(slots, groups, strict=True):
            assert slot is not None  # the optimizer has the network's parameters and no others
            group.update(plan.options(self._phase, slot.group, has_weight_decay=slot.has_weight_decay))
            factors.append(plan.group_factor(self._phase, slot.group, slot.depth))
        return optimizer, factors

    def _reused(
        self, reuse: FeatureExtractor, features: Callable[[NetworkSplit], Sequence[Tensor]]
    ) -> ReusedFeatures | None:
        """Return the features of the frozen layers; None: the whole network runs at every step."""
        network, plan = self.classifier.network, self.classifier.plan
        split = reuse.split_network(network, plan, self._phase, self.data.train)
        if isinstance(split, NoSplit):
            self.trains_on = f"the whole network: {split.reason}"
            return None
        self.trains_on = f"features at {split.name}"
        held = [held_on(tensor, self.device) for tensor in features(split)]
        return ReusedFeatures(split, held, None, reuse.precision_after_split(network, plan, self._phase))
