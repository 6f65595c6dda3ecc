"""frostline: fine-tune image classifiers under freeze schedules, and compare with training from scratch."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from frostline.planning.preview import preview
    from frostline.training.freeze_callback import FreezeSchedule

__all__ = ["FreezeSchedule", "__version__", "preview"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # Lightning takes seconds to import, which `frostline --help` need not wait for.
    if name == "FreezeSchedule":
        from frostline.training.freeze_callback import FreezeSchedule

        return FreezeSchedule
    if name == "preview":
        from frostline.planning.preview import preview

        return preview
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
