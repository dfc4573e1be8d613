"""The network of a run that was configured as `auto`: settled when training starts, and written into `config.yml`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Protocol

from difix3d_ns.difix.resolve import AUTO
from difix3d_ns.fixing.fixer import DifixConfig
from difix3d_ns.fixing.lazy_fixer import LazyFixer
from difix3d_ns.printing import say
from difix3d_ns.resuming.starts import Start, revision_of_earlier_run


class HasNetwork(Protocol):
    """The config of a pipeline."""

    difix: DifixConfig


def settle_on_network(pipeline: HasNetwork, fixer: LazyFixer, trainer: Any, start: Start) -> None:
    """Writes the network that `auto` chooses, and its commit, into the run's config for later commands.

    A run that continues an earlier one uses the commit that the earlier run used.

    Args:
        pipeline: the run's config of its pipeline, which is changed.
        fixer: loads the network; its config is changed likewise.
        trainer: nerfstudio's trainer, which saves the config.
        start: where the run begins.

    Raises:
        DifixError: the configured network is missing, incomplete or cannot be downloaded.
    """
    config = pipeline.difix
    if config.revision is None and start.run_folder is not None:
        fixer.config = replace(config, revision=revision_of_earlier_run(start, fixer.resolve().name))
    choice = fixer.fetch()
    say(f"Difix: {choice.reason}")
    _write(replace(config, model=choice.name, revision=choice.revision), pipeline, fixer, trainer)


def keep_network_of_earlier_run(pipeline: HasNetwork, fixer: LazyFixer, trainer: Any, start: Start) -> None:
    """For a run that fixes nothing itself: replaces `auto` by the network with which the earlier run was trained.

    Otherwise `rgb_enhanced` would look different after a resume, when another network is available by then.

    Args:
        pipeline, fixer, trainer, start: as for `settle_on_network`.
    """
    config, earlier = pipeline.difix, start.earlier_run
    if config.model != AUTO or earlier is None or earlier.network in (None, "", AUTO):
        return
    revision = config.revision or earlier.revision
    base = config.base or earlier.base
    _write(replace(config, model=earlier.network, revision=revision, base=base), pipeline, fixer, trainer)


def _write(config: DifixConfig, pipeline: HasNetwork, fixer: LazyFixer, trainer: Any) -> None:
    """Gives a config to the run, and saves it if it is new."""
    if config != pipeline.difix:
        pipeline.difix = fixer.config = config
        trainer.config.save_config()
