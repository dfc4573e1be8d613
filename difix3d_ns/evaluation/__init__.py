"""Evaluation: renders and enhanced renders against photos, in figures and on a page."""

from difix3d_ns.evaluation.evaluate_options import EvaluateConfig


def evaluate(config: EvaluateConfig) -> None:
    """Measures and writes the page; see `difix3d_ns.evaluation.report.evaluate`."""
    # Loads Pillow, and nerfstudio for a run: only once it is clear that something is evaluated.
    from difix3d_ns.evaluation.report import evaluate as run_evaluation

    run_evaluation(config)
