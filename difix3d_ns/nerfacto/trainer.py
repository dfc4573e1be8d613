"""The trainer of `difix3d-nerfacto`: a run that starts from a nerfacto run has the same model."""

from dataclasses import dataclass, field
from typing import Literal

from difix3d_ns.errors import exit_with_one_sentence
from difix3d_ns.nerfacto.starts import take_settings_of_earlier_run
from difix3d_ns.trainer import Difix3DTrainer, Difix3DTrainerConfig


@dataclass
class Difix3DNerfactoTrainerConfig(Difix3DTrainerConfig):
    """nerfstudio's settings of a training run. A run's `config.yml` names this class."""

    _target: type = field(default_factory=lambda: Difix3DNerfactoTrainer)


class Difix3DNerfactoTrainer(Difix3DTrainer):
    """The trainer of difix3d, which takes the settings of the model from the run that a training starts from."""

    config: Difix3DNerfactoTrainerConfig

    def setup(self, test_mode: Literal["test", "val", "inference"] = "val") -> None:
        """Sets up the training; see `Difix3DTrainer`."""
        # Imported here because nerfstudio collects all methods, of which this module's is one.
        from nerfstudio.configs.method_configs import all_methods

        method = all_methods.get(self.config.method_name)
        with exit_with_one_sentence():
            if method is not None:
                take_settings_of_earlier_run(self.config, method.pipeline.model)
        super().setup(test_mode)
