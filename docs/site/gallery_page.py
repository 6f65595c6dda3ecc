"""The gallery: each ready freeze schedule with its file and its plot."""

from pathlib import Path

from docs.site import comments

from frostline.config import compose
from frostline.planning import plan, plot

CONF = Path(__file__).parents[2] / "conf" / "freeze"
INTRO = """\
# Gallery of schedules

Each ready freeze schedule on a ResNet-18, 20 epochs of 1,000 images, as `frostline plan --picture` plots it.
Top: the learning rate of each group. Bottom: the layers, from the head to the input. Coloured layers
train, grey ones are frozen, and hatched ones [run once](feature-reuse.md).
[Freeze schedules](freeze-schedules.md) explains the files and how to write your own.
"""
BACKBONE = "resnet18"
IMAGES, CLASSES = 1000, 10


def names() -> list[str]:
    """Return the ready schedules, in the order of the alphabet."""
    return sorted(path.stem for path in CONF.glob("*.yaml"))


def page() -> str:
    """Return the page as Markdown."""
    return "\n".join([INTRO, *map(_section, names())])


def draw(name: str) -> bytes:
    """Return a schedule's plot as SVG."""
    composed, choices = compose.experiment([f"backbone={BACKBONE}", f"freeze={name}"])
    made = plan.make(composed, choices, "finetune", (IMAGES, CLASSES))
    return plot.draw(made.as_data(), ".svg")


def _section(name: str) -> str:
    path = CONF / f"{name}.yaml"
    about = comments.read(path)
    listing = "".join(line for line in path.read_text(encoding="utf-8").splitlines(True) if line[0] != "#")
    return f"""\
## {name}

{about.text.rstrip(".:")}. Expect: {about.expected}.

![{name}: learning rates and frozen layers by epoch](schedules/gallery/{name}.svg)

```yaml
# conf/freeze/{name}.yaml
{listing}```

```console
$ {about.command}
```
"""
