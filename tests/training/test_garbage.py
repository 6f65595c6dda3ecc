"""Garbage is left alone while modules are imported, and no longer."""

import gc
import subprocess
import sys

import pytest
from tests.imports import SRC
from tests.study import environment

from frostline.commands.main import main
from frostline.training import garbage


def test_it_is_collected_again_after_the_block_whatever_happens():
    collected = []

    @garbage.uncollected()
    def broken():
        collected.append(gc.isenabled())
        raise ValueError("no reason")

    with pytest.raises(ValueError, match="no reason"):
        broken()
    assert [*collected, gc.isenabled()] == [False, True]


def test_it_is_collected_again_from_where_work_begins():
    with garbage.uncollected():
        garbage.enable()
        assert gc.isenabled()
    assert gc.isenabled()


@pytest.mark.parametrize("enabled", [True, False])
def test_a_call_from_python_leaves_the_garbage_of_its_process_alone(enabled):
    from frostline.api.calls import call

    frozen = gc.get_freeze_count()
    if not enabled:
        gc.disable()
    try:
        with call():
            garbage.enable()
            assert gc.isenabled() == enabled
        assert gc.get_freeze_count() <= frozen  # fewer if some that were frozen before have been deleted
    finally:
        gc.enable()


@pytest.mark.parametrize(
    "words", [["finetune", "backbone=nothing"], ["evaluate"], ["probe", "freeze=nothing"]]
)
def test_a_refused_command_leaves_it_as_it_was(words, capsys):
    assert main(words) == 2
    assert gc.isenabled()


def test_training_collects_it_and_leaks_nothing(tmp_path):
    code = """if True:
        import gc, sys
        from frostline.training import module as lit_module
        from frostline.commands.main import main
        step, seen = lit_module.Classifier._step, []
        def noted(*given):
            seen.append(gc.isenabled())
            step(*given)
        lit_module.Classifier._step = noted
        words = "backbone=mlp dataset=digits weights=none freeze=full trainer.epochs=1 input.size=8"
        main(["finetune", *words.split()])
        assert seen and all(seen)
    """
    settings = environment(tmp_path / "x", PYTHONPATH=str(SRC))
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=settings, check=True, capture_output=True, text=True)
    assert "leaked" not in done.stderr  # torch's libraries say so at exit about uncollected objects
