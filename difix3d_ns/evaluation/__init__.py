"""Compares renders and enhanced renders with photos, by metrics and on a page."""

from difix3d_ns.evaluation.evaluate_options import EvaluateConfig


def evaluate(config: EvaluateConfig) -> None:
    """Runs an evaluation; see `difix3d_ns.evaluation.report.evaluate`."""
    # Imported here because it loads torch and nerfstudio, which --help does not need.
    from difix3d_ns.evaluation.report import evaluate as run_evaluation

    run_evaluation(config)
