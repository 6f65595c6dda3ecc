"""The colours of reports. Plots use the light ones; pages replace them by CSS variables."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from frostline.stats.transfer import BASELINE, Outcome


@dataclass(frozen=True)
class Colour:
    """One colour by its role."""

    role: str
    light: str
    dark: str

    @property
    def variable(self) -> str:
        """The CSS variable of the colour."""
        return f"var(--{self.role})"


INK = Colour("ink", "#15202b", "#e8eef4")
SOFT = Colour("soft", "#5c6b79", "#9fb0c0")
LINE = Colour("line", "#dbe3ea", "#2b3947")
PAPER = Colour("paper", "#ffffff", "#121a22")
CARD = Colour("card", "#f5f8fb", "#1a2530")
HELPED = Colour("helped", "#0b7a53", "#4fd1a1")
HURT = Colour("hurt", "#b3261e", "#ff8f86")
UNDECIDED = Colour("undecided", "#8a5a00", "#f0bd5e")
BASELINE_COLOUR = Colour("baseline", "#73808c", "#93a3b2")
# Safe for red-green colour blindness: lightness alternates as well as hue.
ARMS = (
    Colour("arm-1", "#7d5bbe", "#b79cf2"),
    Colour("arm-2", "#0e9488", "#45d0c2"),
    Colour("arm-3", "#1668d6", "#6cb0ff"),
    Colour("arm-4", "#e0700f", "#ffa44f"),
    Colour("arm-5", "#c23a78", "#ff86b6"),
    Colour("arm-6", "#4d7c0f", "#a3d65c"),
    Colour("arm-7", "#0b87b5", "#5fd0f5"),
    Colour("arm-8", "#97650c", "#dcb05c"),
)
OUTCOMES: dict[Outcome, Colour] = {"helped": HELPED, "hurt": HURT, "undecided": UNDECIDED}
ALL = (INK, SOFT, LINE, PAPER, CARD, HELPED, HURT, UNDECIDED, BASELINE_COLOUR, *ARMS)


def arm_colours(arms: Sequence[str]) -> dict[str, Colour]:
    """Return each arm's colour: grey for the baseline, the palette in order, repeated, for the others."""
    others = [arm for arm in arms if arm != BASELINE]
    colours = {arm: ARMS[index % len(ARMS)] for index, arm in enumerate(others)}
    return {arm: colours.get(arm, BASELINE_COLOUR) for arm in arms}


def css_variables(shade: str) -> str:
    """Return the CSS declarations of all colours, ``light`` or ``dark``."""
    return " ".join(f"--{colour.role}: {getattr(colour, shade)};" for colour in ALL)


def with_variables(svg: str) -> str:
    """Return an SVG with each light colour replaced by its CSS variable."""
    for colour in ALL:
        svg = svg.replace(colour.light, colour.variable)
    return svg


def style_sheet() -> str:
    """Return the style sheet of all pages; it uses the variables of `css_variables`."""
    return Path(__file__).with_name("page.css").read_text(encoding="utf-8")
