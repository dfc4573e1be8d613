"""The benchmark `main_job.py`: the runs that it compares do the same work, and its figures and limits are right."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from benchmarks import fix_stages, main_job, startup_times, step_times
from benchmarks.fix_stages import REST, TEST, Stopwatch, fix_config, measure_fixes, per_view
from benchmarks.main_job import BenchmarkConfig, exceeded_limits, table
from benchmarks.memory_peaks import added, weight_bytes
from benchmarks.step_times import BASE, MIXED, PHOTO, PSEUDO_VIEW, WITHOUT_FIXES, Contest, Step, compare, configs


@pytest.fixture
def contest(banana: Path, tmp_path: Path) -> Iterator[Contest]:
    import torch._dynamo

    with torch._dynamo.config.patch(disable=True):  # splatfacto compiles for half a minute
        ready = Contest(configs(banana, tmp_path, 500, 0.1, "cpu"), num_views=7)
        ready.train_base(2)
        yield ready


def test_all_runs_share_settings_gaussians_and_photos(banana: Path, tmp_path: Path) -> None:
    trainings = configs(banana, tmp_path, 500, 0.1, "cpu")
    base, *ours = trainings.values()
    assert base.method_name == "splatfacto" and {each.method_name for each in ours} == {"difix3d"}
    for each in ours:
        assert (
            vars(each.pipeline.model).items()
            >= {**vars(base.pipeline.model), "_target": each.pipeline.model._target}.items()
        )
        assert vars(each.pipeline.datamanager)["dataparser"] == base.pipeline.datamanager.dataparser
        assert each.optimizers == base.optimizers
    assert [each.pipeline.fix_novel_views for each in ours] == [False, True]
    assert len({each.get_base_dir() for each in trainings.values()}) == 3


def test_a_photo_gives_all_runs_the_same_loss_and_a_fixed_view_another(contest: Contest) -> None:
    names = [WITHOUT_FIXES, PSEUDO_VIEW, BASE, PHOTO]
    rounds = [contest.round(step, names) for step in (2, 3)]
    for each in rounds:
        assert each[BASE].loss == pytest.approx(each[WITHOUT_FIXES].loss, rel=1e-5)
        assert each[BASE].loss == pytest.approx(each[PHOTO].loss, rel=1e-5)
        assert each[PSEUDO_VIEW].loss < 0.9 * each[BASE].loss
        assert all(step.seconds > 0 and step.work > 0 for step in each.values())
    assert rounds[0][BASE].loss != rounds[1][BASE].loss
    rows = compare(rounds, contest.pseudo_view_probability)
    assert set(rows) == {BASE, WITHOUT_FIXES, PHOTO, PSEUDO_VIEW, MIXED}


def test_overhead_compares_steps_of_the_same_round() -> None:
    # The machine becomes three times slower; ours always takes a quarter more.
    rounds = [
        {
            BASE: Step(s, s, 1.0),
            WITHOUT_FIXES: Step(s, s, 1.0),
            PHOTO: Step(s, s, 1.0),
            PSEUDO_VIEW: Step(s, 1.25 * s, 0.3),
        }
        for s in (1.0, 1.5, 2.0, 2.5, 3.0)
    ]
    rows = compare(rounds, pseudo_view_probability=0.4)
    assert rows[BASE]["overhead"] == rows[WITHOUT_FIXES]["overhead"] == 0
    assert rows[PSEUDO_VIEW] == {"seconds": 2.0, "overhead": 0.25, "overhead_low": 0.25, "overhead_high": 0.25}
    assert rows[MIXED]["overhead"] == pytest.approx(0.1)


def test_runs_that_do_different_work_are_not_compared() -> None:
    other = {
        BASE: Step(1, 1, 0.5),
        WITHOUT_FIXES: Step(1, 1, 0.51),
        PHOTO: Step(1, 1, 0.5),
        PSEUDO_VIEW: Step(1, 1, 0.2),
    }
    with pytest.raises(SystemExit, match="do not do the same work"):
        compare([other], 0.3)


def test_the_interval_of_a_median_shrinks_with_more_values() -> None:
    few, many = ([float(i) for i in range(count)] for count in (9, 901))
    assert step_times.median_with_interval(few) == (4.0, 1.0, 7.0)
    middle, low, high = step_times.median_with_interval(many)
    assert middle == 450 and 0.45 < low / 900 < 0.5 < high / 900 < 0.55


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that the stopwatch reads, in its only element."""
    now = [0.0]
    monkeypatch.setattr(fix_stages.time, "process_time", lambda: now[0])
    return now


def test_the_time_of_a_nested_stage_counts_only_for_that_stage(clock: list[float]) -> None:
    watch = Stopwatch("cpu")

    def wait(seconds: float) -> None:
        clock[0] += seconds

    decode = watch.timed(lambda: wait(2.0), "decoder")

    def fix() -> None:
        wait(1.0)
        decode()
        wait(4.0)

    with watch.stage(REST):
        watch.timed(fix, "images in and out")()
        wait(8.0)
        with watch.stage(TEST):
            fix()
            decode()
        with pytest.raises(ValueError), watch.stage("decoder"):
            wait(16.0)
            raise ValueError
        wait(32.0)
    assert watch.seconds == {REST: 40.0, "images in and out": 5.0, "decoder": 18.0, TEST: 9.0}


def test_seconds_are_medians_per_view_and_missing_stages_count_as_zero() -> None:
    measured = [{"UNet": 4.0, "colours": 2.0}, {"UNet": 6.0}, {"UNet": 8.0}]
    assert per_view(measured, 2) == {"UNet": 3.0, "colours": 0.0}


def test_a_real_fix_runs_every_stage(banana: Path, tmp_path: Path) -> None:
    config = fix_config(banana, tmp_path, 500, 0.1, "cpu", "embedded")
    config.pipeline.trust.check = False
    fixes = measure_fixes(config, num_steps=1, num_fixes=1)
    assert fixes["num_views"] == 5
    named = {stage for *_, stage in fix_stages.stages(_NamesAlone())}
    # The embedded network gets aligned references, as part of its renders.
    assert set(fixes["first"]) == named - {"reference photos", "encoder, references"} | {REST}
    assert all(seconds > 0 for seconds in fixes["first"].values())


class _NamesAlone:
    """Has every attribute and method; each is this object itself."""

    def __getattr__(self, name: str) -> _NamesAlone:
        return self

    def __call__(self) -> _NamesAlone:
        return self


@pytest.mark.parametrize("hidden", ["none", startup_times.DISTRIBUTION])
def test_only_the_plugin_is_hidden_and_only_from_nerfstudio(tmp_path: Path, hidden: str) -> None:
    package = tmp_path / "nerfstudio" / "scripts"
    package.mkdir(parents=True)
    for folder in (package.parent, package):
        (folder / "__init__.py").touch()
    (package / "train.py").write_text(
        "import json, sys\n"
        "from importlib.metadata import entry_points\n"
        "def entrypoint():\n"
        "    methods = sorted(entry_points(group='nerfstudio.method_configs').names)\n"
        "    scripts = sorted(entry_points(group='console_scripts').names)\n"
        "    print(json.dumps([methods, scripts, sys.argv]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", startup_times.START, hidden, "--help"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        check=True,
    )
    methods, scripts, arguments = json.loads(done.stdout)
    installed = set(importlib.metadata.entry_points(group="nerfstudio.method_configs").names)
    ours = {"difix3d", "difix3d-mini", "difix3d-nerfacto"}
    assert set(methods) == (installed if hidden == "none" else installed - ours)
    assert scripts == sorted(importlib.metadata.entry_points(group="console_scripts").names)
    assert arguments == ["ns-train", "--help"]


def test_startup_is_compared_by_processor_time() -> None:
    times = {"without": [(8.0, 4.0), (9.0, 5.0), (30.0, 10.0)], "with": [(10.0, 5.0), (9.0, 5.5), (8.0, 8.0)]}
    rows = startup_times.compare(times, {"with": "without"})
    assert rows["without"] == {"seconds_min": 8.0, "seconds_median": 9.0}
    assert rows["with"] == {
        "seconds_min": 8.0,
        "seconds_median": 9.0,
        "more_median": pytest.approx(0.1),
        "more_min": pytest.approx(0.25),
    }


def test_memory_added_by_fixes_is_reported_without_the_weights() -> None:
    assert added({"rss": 100, "cuda": 50}, {"rss": 180, "cuda": 90}, 17) == {"weights": 17, "rss": 63, "cuda": 23}
    assert 3e6 < weight_bytes() < 4e6


def report(low: float = -0.01, more: float = 0.01) -> dict:
    row = {"seconds": 0.05, "overhead": low + 0.01, "overhead_low": low, "overhead_high": low + 0.02}
    return {
        "steps": {BASE: {**row, "overhead": 0.0}, WITHOUT_FIXES: row, PSEUDO_VIEW: row},
        "fixes": {
            "first": {"rendering": 0.5, "UNet": 0.25},
            "later": {"rendering": 0.125, "UNet": 0.25},
            "num_views": 5,
            "num_rejected": 1,
            "seconds": 1.875,
        },
        "startup": {
            "without": {"seconds_min": 8.0, "seconds_median": 9.0},
            "with": {"seconds_min": 8.1, "seconds_median": 9.1, "more_min": more, "more_median": more + 0.01},
        },
        "memory": {
            "without": {"rss": 2_000_000_000, "cuda": 1_000_000_000},
            "with": {"rss": 2_100_000_000, "cuda": 1_200_000_000},
            "added": {"weights": 17_000_000, "rss": 83_000_000, "cuda": 183_000_000},
        },
    }


def test_the_tables_show_every_measured_part() -> None:
    shown = table(report())
    for row in (
        "| splatfacto | 0.0500 |  |",
        "| difix3d, no fixes | 0.0500 | +0.0% (-1.0% to +1.0%) |",
        "| in all | 0.7500 | 0.3750 |",
        "A later fix of 5 views takes 1.88 s; 1 of its views were rejected.",
        "| with | 8.10 | 9.10 | +1.0% | +2.0% |",
        "| added beyond the network's weights | 83 | 183 |",
    ):
        assert row in shown
    assert table({"startup": report()["startup"]}).count("\n\n") == 0


@pytest.mark.parametrize(
    ("figures", "expected"),
    [(report(), []), (report(low=0.05), ["a step takes 6.0% more"]), (report(more=0.06), ["with takes 6.0% more"])],
)
def test_only_limits_exceeded_beyond_the_noise_are_reported(figures: dict, expected: list[str]) -> None:
    sentences = exceeded_limits(figures)
    assert len(sentences) == len(expected)
    assert all(part in sentence for part, sentence in zip(expected, sentences, strict=True))


def test_only_the_chosen_parts_are_measured_and_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(startup_times, "measure_startup", lambda repeats: report(more=0.06)["startup"])
    output = tmp_path / "main_job.json"
    with pytest.raises(SystemExit, match="1"):
        main_job.main(BenchmarkConfig(measure=("startup",), output=output))
    written = json.loads(output.read_text())
    assert set(written) == {"machine", "startup"} and written["machine"]["threads"] == torch.get_num_threads()
    assert "| with | 8.10 |" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="no such transforms file"):
        main_job.main(BenchmarkConfig(scene=tmp_path / "none.json"))
