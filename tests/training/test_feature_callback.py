import dataclasses

import pytest
import torch
from tests.forks import FORKS
from tests.tiny import ALL, PROBE, RESNET, Bench, same, tensors

from frostline.features import cache_files
from frostline.features.cache import FeatureCache
from frostline.features.reuse import FeatureExtractor
from frostline.training import trainable

NETWORK = {"backbone": RESNET, "input": {"size": 32, "channels": 3}}
GRADUAL = {
    "groups": {"head": "head", "top": "stage:-1", "rest": "*"},
    "phases": [
        {"train": ["head"], "until": {"epochs": 1}},
        {"train": ["head", "top"], "until": {"steps": 3}},
        {"train": ["head"], "until": {"steps": 1}},
        {"train": "all", "until": "end"},
    ],
}
LIGHT = {"flip": 0.5, "translate": 0.1}
LIMIT = 1 << 30


def reuse_of(bench, folder, limit=LIMIT):
    config = bench.config
    spec, cache = bench.data.spec, FeatureCache(folder / "features", limit)
    return FeatureExtractor(cache, config.features, config.backbone, spec, config.augment, config.trainer, 0)


def trained(changes, folder, cache=None, limit=LIMIT):
    """The result of a fit with features, in a folder of its own; and its bench."""
    bench = Bench({**NETWORK, "trainer": {"epochs": 4}, **changes})
    result = bench.fit(folder, reuse=reuse_of(bench, cache or folder, limit))
    return result, tensors(bench.network), bench


def whole(changes, folder):
    bench = Bench({**NETWORK, "trainer": {"epochs": 4}, **changes})
    return bench.fit(folder), tensors(bench.network)


def close(a, b, rtol=1e-4):
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=rtol, atol=1e-5)


def alike(history, expected):
    for row, other in zip(history, expected, strict=True):
        assert list(row.values()) == [
            v if v is None else pytest.approx(v, rel=1e-4, abs=1e-6) for v in other.values()
        ]


@pytest.mark.parametrize("schedule", [PROBE, GRADUAL, ALL], ids=["probe", "gradual", "all"])
def test_training_on_features_is_training_but_for_rounding(schedule, tmp_path):
    changes = {"freeze": schedule}
    result, weights, _ = trained(changes, tmp_path / "a")
    expected, expected_weights = whole(changes, tmp_path / "b")
    close(weights, expected_weights)
    alike(result.history, expected.history)
    assert expected.features == []


def test_it_says_where_each_phase_begins(tmp_path):
    result, *_ = trained({"freeze": GRADUAL}, tmp_path)
    assert result.features[:3] == ["fc:input", "layer3:output", "fc:input"]
    assert result.features[3] == "whole network: every layer trains"


def lines(changes, folder):
    """What a fit says."""
    bench, said = Bench({**NETWORK, "trainer": {"epochs": 4}, **changes}), []
    bench.fit(folder, reuse=dataclasses.replace(reuse_of(bench, folder), say=said.append))
    return said


def test_it_says_so_as_each_phase_begins_and_not_what_goes_without_saying(tmp_path):
    assert lines({"freeze": GRADUAL}, tmp_path) == [
        "phase 0 trains on features at fc:input",
        "phase 1 trains on features at layer3:output",
        "phase 2 trains on features at fc:input",  # the top has moved
    ]
    assert lines({"freeze": PROBE}, tmp_path) == ["phase 0 trains on features at fc:input (from the cache)"]
    assert lines({"freeze": ALL, "augment": LIGHT}, tmp_path / "a") == []
    assert lines({"freeze": PROBE, "features": {"kind": "off"}}, tmp_path / "b") == []
    assert lines({"freeze": PROBE, "augment": LIGHT}, tmp_path / "c") == [
        "phase 0 runs the whole network: augmentation changes the images at each step;"
        " features.views=4 caches four versions of each"
    ]


@pytest.mark.parametrize("schedule", [PROBE, GRADUAL], ids=["probe", "gradual"])
def test_a_warm_cache_gives_the_same_bytes(schedule, tmp_path):
    changes = {"freeze": schedule}
    cold, weights, _ = trained(changes, tmp_path / "a", cache=tmp_path)
    kept = {path: path.stat().st_ino for path in (tmp_path / "features").glob("*.safetensors")}
    assert kept
    warm, again, _ = trained(changes, tmp_path / "b", cache=tmp_path)
    assert same(weights, again)
    assert warm.history == cold.history
    assert {path: path.stat().st_ino for path in (tmp_path / "features").glob("*.safetensors")} == kept


def _trained_beside(changes, folder, cache, queue):
    _, weights, _ = trained(changes, folder, cache=cache)
    queue.put({name: tensor.numpy() for name, tensor in weights.items()})


@pytest.mark.slow
def test_two_processes_at_once_give_the_same_bytes(tmp_path):
    queue = FORKS.Queue()
    jobs = [
        FORKS.Process(target=_trained_beside, args=({"freeze": GRADUAL}, tmp_path / name, tmp_path, queue))
        for name in ("a", "b")
    ]
    for job in jobs:
        job.start()
    found = [{name: torch.from_numpy(a) for name, a in queue.get(timeout=120).items()} for _ in jobs]
    for job in jobs:
        job.join()
    _, alone, _ = trained({"freeze": GRADUAL}, tmp_path / "c")
    assert same(found[0], alone)
    assert same(found[1], alone)


def test_frozen_layers_run_once_whatever_the_epochs(tmp_path):
    bench = Bench({**NETWORK, "freeze": PROBE, "trainer": {"epochs": 6}})
    images = []
    bench.network.conv1[0].register_forward_hook(lambda module, given, output: images.append(len(output)))
    bench.fit(tmp_path, reuse=reuse_of(bench, tmp_path))
    # Each training and validation image once, beside the few that prove the cut and its stand-ins.
    assert sum(count for count in images if count > 3) == 40 + 30


def test_augmentation_needs_views(tmp_path):
    result, *_ = trained({"freeze": PROBE, "augment": LIGHT}, tmp_path / "a")
    assert "features.views=4" in result.features[0]
    result, *_ = trained({"freeze": PROBE, "augment": {"mixup": 0.2}}, tmp_path / "b")
    assert "mixup" in result.features[0]
    result, *_ = trained({"freeze": PROBE, "features": {"kind": "off"}}, tmp_path / "c")
    assert result.features == ["whole network: features=off"]
    assert not (tmp_path / "c/features").exists()


@pytest.mark.parametrize(
    "augment", [LIGHT, {"resized_crop": 0.4, "policy": "trivial", "erase": 0.3}], ids=str
)
def test_views_are_drawn_once_and_taken_in_turn(augment, tmp_path):
    changes = {"freeze": PROBE, "augment": augment, "features": {"kind": "auto", "views": 3}}
    _, weights, bench = trained(changes, tmp_path / "a", cache=tmp_path)
    _, again, _ = trained(changes, tmp_path / "b", cache=tmp_path)
    assert same(weights, again)
    assert len(list((tmp_path / "features").glob("*.safetensors"))) == 3 + 1
    reuse, plan = reuse_of(bench, tmp_path), bench.plan
    trainable.apply_phase(bench.network, plan, 0)
    split = reuse.split_network(bench.network, plan, 0, bench.data.train)
    first, second = (reuse.features(split, bench.data.train, view) for view in (0, 1))
    plain = reuse.features(split, bench.data.train)
    assert not torch.equal(first, second)
    assert not torch.equal(first, plain)
    assert torch.equal(first, reuse.features(split, bench.data.train, 0))


def test_features_that_do_not_fit_the_cache_are_not_made(tmp_path):
    result, *_ = trained({"freeze": PROBE}, tmp_path, limit=1000)
    assert result.features == [
        "whole network: features at fc:input would take 15 KiB, but the cache is limited to 0.977 KiB;"
        " FROSTLINE_CACHE_GIB=1 raises the limit"
    ]


@pytest.mark.parametrize(
    "averaging", [{"kind": "ema", "decay": 0.5, "warmup": False}, {"kind": "swa", "start": 0.5}]
)
def test_an_average_is_validated_as_without_features(averaging, tmp_path):
    backwards = {
        **GRADUAL,
        "phases": [{"train": "all", "until": {"epochs": 1}}, {"train": ["head"], "until": "end"}],
    }
    changes = {"freeze": backwards, "averaging": averaging}
    result, *_ = trained(changes, tmp_path / "a")
    expected, _ = whole(changes, tmp_path / "b")
    assert result.features[1] == "fc:input"
    alike(result.history, expected.history)


def test_bf16_features_are_kept_as_they_are_computed(tmp_path):
    bench = Bench({**NETWORK, "freeze": PROBE, "trainer": {"precision": "bf16"}})
    reuse = reuse_of(bench, tmp_path)
    result = bench.fit(tmp_path, reuse=reuse)
    assert result.features == ["fc:input"]
    (entry, *_) = cache_files.entries(reuse.cache.folder)
    assert entry.about["precision"] == "bf16"


def test_a_key_is_made_of_all_that_features_depend_on(tmp_path):
    bench = Bench({**NETWORK, "freeze": PROBE})
    bench.fit(tmp_path, reuse=reuse_of(bench, tmp_path))

    def key(changes):
        other = Bench({**NETWORK, "freeze": PROBE, **changes})
        reuse = reuse_of(other, tmp_path)
        trainable.apply_phase(other.network, other.plan, 0)
        split = reuse.split_network(other.network, other.plan, 0, other.data.train)
        before = {entry.key for entry in cache_files.entries(reuse.cache.folder)}
        reuse.features(split, other.data.train)
        return {entry.key for entry in cache_files.entries(reuse.cache.folder)} - before

    # What does not change the features finds them.
    assert not key({})
    assert not key(
        {"optimizer.lr": 0.5, "trainer.epochs": 9, "trainer.batch_size": 8, "trainer.eval_batch_size": 7}
    )
    assert key({"input.size": 40})
    assert key({"input.size": [32, 40]})
    assert key({"input.fit": "pad"})
    assert key({"input.mean": [0.1] * 3, "input.std": [1.0] * 3})
    assert key({"trainer.precision": "bf16"})
    assert key({"trainer.threads": 2})


def test_a_run_that_was_interrupted_resumes_to_the_same_bytes(tmp_path, monkeypatch):
    from frostline.training import trainer

    monkeypatch.setattr(trainer, "SAVE_EVERY_SECONDS", 0.0)
    monkeypatch.setattr(trainer, "SAVE_SHARE", 1e9)
    _, weights, _ = trained({"freeze": GRADUAL}, tmp_path / "a")

    class Stop(Exception):
        pass

    def stop(row):
        if row["epoch"] == 2:
            raise Stop

    bench = Bench({**NETWORK, "trainer": {"epochs": 4}, "freeze": GRADUAL})
    with pytest.raises(Stop):
        bench.fit(tmp_path / "b", stop, reuse=reuse_of(bench, tmp_path / "b"))
    result, again, _ = trained({"freeze": GRADUAL}, tmp_path / "b", cache=tmp_path / "c")
    assert same(weights, again)
    assert result.features[:3] == ["fc:input", "layer3:output", "fc:input"]
