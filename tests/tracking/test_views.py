"""What MLflow's page of a study or a sweep shows at first sight: rows, columns, order and charts."""

import json
from dataclasses import replace

import pytest

from frostline.tracking import views
from frostline.tracking.views import CHARTS, CURVES, PARALLEL, RESULTS, SEEDS, Study

ARMS = Study("mine", ("arm",), stage="finetune", means=True)
SWEEP = Study("rates", ("freeze", "optimizer.lr", "optimizer", "dataset@source"), "val/loss", "finetune")


def test_arms_have_their_mean_interval_and_number_of_seeds():
    view = views.states(ARMS)[RESULTS]
    assert view["selectedColumns"] == [
        "tags.`arm`",
        "metrics.`test/accuracy`",
        "metrics.`test/accuracy.low`",
        "metrics.`test/accuracy.high`",
        "metrics.`n`",
        "metrics.`best/val/accuracy`",
        "metrics.`train_seconds`",
    ]
    assert (view["orderByKey"], view["orderByAsc"]) == ("metrics.`test/accuracy`", False)


def test_arms_have_their_gain_once_it_was_reported():
    columns = views.states(replace(ARMS, gains=True))[RESULTS]["selectedColumns"]
    assert columns.index("metrics.`gain`") == columns.index("metrics.`test/accuracy`") + 1


def test_a_sweep_has_what_varies_and_its_objective_and_no_column_without_values():
    view = views.states(SWEEP)[RESULTS]
    assert view["selectedColumns"][:4] == [
        "tags.`freeze`",
        "params.`optimizer.lr`",
        "params.`optimizer.name`",
        "metrics.`best/val/loss`",
    ]
    assert not any(column.endswith((".low`", "`n`")) for column in view["selectedColumns"])
    assert (view["orderByKey"], view["orderByAsc"]) == ("metrics.`best/val/loss`", True)


@pytest.mark.parametrize("study", [ARMS, SWEEP, Study("new")], ids=lambda study: study.name)
def test_charts_have_a_section_that_is_open_and_lines_in_it(study):
    for view, state in views.states(study).items():
        assert ("compareRunCharts" in state) == ("compareRunSections" in state) == (view in CHARTS)
        for chart in state.get("compareRunCharts", ()):
            (section,) = (s for s in state["compareRunSections"] if s["uuid"] == chart["metricSectionId"])
            assert section["display"]
        assert len({chart["uuid"] for chart in state.get("compareRunCharts", ())}) == len(
            state.get("compareRunCharts", ())
        )
        assert json.loads(json.dumps(state)) == state


def test_the_seeds_of_an_arm_are_one_line_and_phases_have_a_chart():
    curves = views.states(ARMS)[CURVES]
    assert curves["groupBy"]["groupByKeys"] == [{"mode": "tag", "groupByData": "arm"}]
    assert "groupBy" not in views.states(SWEEP)[CURVES]
    assert {"val/accuracy", "phase"} <= {chart["metricKey"] for chart in curves["compareRunCharts"]}


def test_arms_that_were_changed_are_told_apart_by_what_differs():
    found = views.states(Study("mine", ("arm", "optimizer.lr"), stage="finetune", means=True))
    assert found[RESULTS]["selectedColumns"][:2] == ["tags.`arm`", "params.`optimizer.lr`"]
    assert found[CURVES]["groupBy"]["groupByKeys"] == [
        {"mode": "tag", "groupByData": "arm"},
        {"mode": "param", "groupByData": "optimizer.lr"},
    ]


def test_parallel_coordinates_need_hyperparameters():
    (chart,) = views.states(SWEEP)[PARALLEL]["compareRunCharts"]
    assert chart["selectedParams"] == ["freeze_name", "optimizer.lr", "optimizer.name"]
    assert chart["selectedMetrics"] == ["best/val/loss"]
    assert PARALLEL not in views.states(ARMS)


def test_charts_are_wide_enough_for_their_axes_and_legends():
    columns = {
        view: state["compareRunSections"][0]["columns"]
        for view, state in views.states(SWEEP).items()
        if view in CHARTS
    }
    assert columns == {CURVES: 2, PARALLEL: 1}


def test_the_seeds_of_a_setting_are_one_line_in_a_sweep_too():
    groups = views.states(replace(SWEEP, means=True))[CURVES]["groupBy"]["groupByKeys"]
    assert [group["groupByData"] for group in groups] == ["freeze", "optimizer.lr", "optimizer.name"]


def test_trials_and_arms_in_one_study_are_all_shown():
    assert (ARMS.own_tag, SWEEP.own_tag, Study("new").own_tag) == ("arm", "trial.state", None)
    assert replace(ARMS, objective="val/loss").own_tag is None


def test_every_view_has_a_title_and_an_address_of_its_own():
    assert list(views.TITLES) == [RESULTS, SEEDS, CURVES, PARALLEL]
    assert len({views.page("1", "mine", view) for view in views.TITLES}) == 4
    assert "compareRunsMode=CHART" in views.page("1", "mine", CURVES)
    assert views.page("1", "mine") != views.page("1", "other")


@pytest.mark.parametrize("study", [ARMS, SWEEP], ids=lambda study: study.name)
def test_a_view_fits_into_a_tag(study):
    keys = tuple(f"optimizer.hyperparameter_{number}" for number in range(12))
    larger = Study("n" * 100, (*study.compared, *keys), study.objective, study.stage, means=True)
    assert max(len(json.dumps(state)) for state in views.states(larger).values()) <= 5000
