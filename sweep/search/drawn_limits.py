"""Limits of trials that a search draws, estimated when they are drawn, not before the sweep."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from sweep.estimates import Estimates
from sweep.limits import Limits
from sweep.request import SweepSettings
from sweep.resources import Resources, first_limits, gpus_per_trial, stardist_limits
from trainables.config import STARDIST, TrialConfig
from trainables.footprint import Footprint


class DrawnLimits(dict[str, Limits]):
    """First limits of drawn trials by trial_id.

    Under ``""`` are the limits of trials whose needs are unknown. As a context manager, it stops
    running estimates at the end.

    Parameters
    ----------
    settings : SweepSettings
    resources : Resources
    image_shape : (H, W)
        Shape of the largest image that will be evaluated whole.
    gpu_memory_gb : float or None
        Memory of each GPU; None if unknown, and trials then get whole GPUs.
    images_mb : float
        Memory of a trial's images in MiB.
    """

    def __init__(
        self,
        settings: SweepSettings,
        resources: Resources,
        image_shape: tuple[int, int],
        gpu_memory_gb: float | None,
        images_mb: float = 0.0,
    ) -> None:
        super().__init__(first_limits(settings, resources))
        self.settings, self.resources = settings, resources
        self.image_shape, self.gpu_memory_gb = image_shape, gpu_memory_gb
        # on CPUs a trial's images count, too
        self.images_mb = 0.0 if resources.gpus else images_mb
        self._footprints: dict[str, Footprint] = {}
        self._estimating: dict[str, Estimates] = {}

    @property
    def fixed(self) -> bool:
        """Whether all trials have the same limits, whatever they need."""
        if gpus_per_trial(self.settings, self.resources):
            return self.settings.gpus_per_trial is not None or self.gpu_memory_gb is None
        return self.settings.memory_per_trial is not None or not self.resources.memory_gb

    def of(self, trial_id: str, config: TrialConfig) -> Limits | None:
        """Return the limits of a trial; None while its network is being estimated."""
        if config.architecture == STARDIST and self[""].gpu:
            return stardist_limits(self.settings, self.resources, self[""])
        if trial_id in self or self.fixed:
            return self.get(trial_id, self[""])
        if trial_id not in self._estimating:
            self._estimating[trial_id] = Estimates({trial_id: config}, self.image_shape)
        if not self._estimating[trial_id].ready():
            return None
        for one, footprint in self._estimating.pop(trial_id).result().items():
            peak = footprint.peak_mb + self.images_mb
            self._footprints[one] = replace(footprint, peak_mb=peak)
        known: Mapping[str, Limits] = first_limits(
            self.settings, self.resources, self._footprints, self.gpu_memory_gb
        )
        # those that run keep what they have
        self[trial_id] = known.get(trial_id, self[""])
        return self[trial_id]

    def close(self) -> None:
        """Stop estimating."""
        for estimates in self._estimating.values():
            estimates.close()
        self._estimating.clear()
