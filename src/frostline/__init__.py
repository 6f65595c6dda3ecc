"""frostline: fine-tune image classifiers under freeze schedules, and compare with training from scratch."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from frostline.api.comparisons import compare
    from frostline.api.plans import lr_find, plan, show
    from frostline.api.probes import probe
    from frostline.api.reports import report
    from frostline.api.runs import Run, finetune, load, pretrain
    from frostline.api.sweeps import sweep
    from frostline.console.errors import FrostlineError, TrainingFailed
    from frostline.planning.preview import preview
    from frostline.training.freeze_callback import FreezeSchedule

__all__ = [
    "FreezeSchedule",
    "FrostlineError",
    "Run",
    "TrainingFailed",
    "__version__",
    "compare",
    "finetune",
    "load",
    "lr_find",
    "plan",
    "pretrain",
    "preview",
    "probe",
    "report",
    "show",
    "sweep",
]
__version__ = "0.1.0"

# Imported when they are first used: `frostline --help` need not wait for Lightning.
_MODULES = {
    "FreezeSchedule": "training.freeze_callback",
    "FrostlineError": "console.errors",
    "Run": "api.runs",
    "TrainingFailed": "console.errors",
    "compare": "api.comparisons",
    "finetune": "api.runs",
    "load": "api.runs",
    "lr_find": "api.plans",
    "plan": "api.plans",
    "pretrain": "api.runs",
    "preview": "planning.preview",
    "probe": "api.probes",
    "report": "api.reports",
    "show": "api.plans",
    "sweep": "api.sweeps",
}
"""Name → the module that has it."""


if not TYPE_CHECKING:  # a type checker would take any name for an attribute

    def __getattr__(name: str) -> Any:
        if name in _MODULES:
            return getattr(import_module(f"frostline.{_MODULES[name]}"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
