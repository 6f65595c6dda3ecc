import typing

import pydantic
import pytest
from pydantic_core import PydanticUndefined

from frostline import schema
from frostline.base.metrics import monitors

MODELS = [
    value
    for value in vars(schema).values()
    if isinstance(value, type) and issubclass(value, schema.Strict) and value is not schema.Strict
]


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_no_field_has_a_default_but_none(model):
    """All that a result depends on is in the resolved files: that is why dvc.yaml leaves schema.py out."""
    assert model.model_fields
    for name, field in model.model_fields.items():
        assert field.default in (PydanticUndefined, None), name
        assert field.default_factory is None, name


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_a_model_is_frozen_strict_and_closed(model):
    assert model.model_config["frozen"]
    assert model.model_config["strict"]
    assert model.model_config["extra"] == "forbid"


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_a_model_says_what_it_is(model):
    assert model.__doc__ or model.__name__.startswith("_")


def test_no_model_holds_a_plain_dictionary_of_its_own():
    """Free dictionaries are listed here: all else is refused if it is misspelt."""
    free = {
        f"{model.__name__}.{name}"
        for model in MODELS
        for name, field in model.model_fields.items()
        if "dict" in str(field.annotation)
    }
    datasets = typing.get_args(typing.get_args(schema.Dataset)[0])
    assert free == {
        *(f"{dataset.__name__}.test_sets" for dataset in datasets),
        "PluginDataset.options",
        "PluginBackbone.options",
        "Optimizer.options",
        "Phase.lr",
        "Phase.optimizer",
        "Freeze.groups",
        "Conditional.when",
        "Sweep.space",
        "Experiment.gate",
        "Report.gate",
    }


def test_unions_are_told_apart_by_their_kind():
    for name in ("Dataset", "Backbone", "Weights", "Loss", "Adapter", "Regularizer", "Averaging"):
        union, field = typing.get_args(getattr(schema, name, None) or getattr(schema.training, name))
        assert field.discriminator == "kind"
        kinds = [
            kind
            for m in typing.get_args(union)
            for kind in typing.get_args(m.model_fields["kind"].annotation)
        ]
        assert len(set(kinds)) == len(typing.get_args(union))


def test_what_is_measured_after_each_epoch_can_choose_it():
    measured = {name for several in (False, True) for name in monitors(several_labels=several)}
    assert set(typing.get_args(schema.training.Monitor)) == measured
    assert measured <= {*typing.get_args(schema.sweep.Objective)}


def test_a_made_model_can_not_be_changed():
    epochs = schema.Epochs(epochs=3)
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        epochs.epochs = 4


def test_a_number_is_not_taken_from_a_word():
    with pytest.raises(pydantic.ValidationError, match="valid number"):
        schema.Epochs.model_validate({"epochs": "3"})
    assert schema.Epochs.model_validate({"epochs": 3}).epochs == 3.0
