"""House style to Google style: a section's text may begin on the line of its name, and commands stand as they are."""

import re
from typing import Any

import griffe

SECTION = re.compile(r"^(Returns|Raises|Yields): (.+(?:\n(?!\S).+)*)", re.MULTILINE)
COMMANDS = re.compile(r"(?:^ *(?:uv run|python) .*\n?(?:^ +.*\n?)*)+", re.MULTILINE)


class HouseStyle(griffe.Extension):
    """Rewrites every docstring before it is parsed."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Called once for each module, class, function and attribute."""
        if obj.docstring is not None:
            obj.docstring.value = google_style(obj.docstring.value)


def google_style(text: str) -> str:
    """`Returns: a, b.` becomes a section of its own, and lines of commands become a block of code."""
    text = SECTION.sub(lambda found: f"\n{found[1]}:\n    {found[2]}\n", text)
    return COMMANDS.sub(lambda found: f"\n```bash\n{dedented(found[0])}\n```\n\n", text)


def dedented(block: str) -> str:
    lines = block.rstrip("\n").splitlines()
    indent = len(lines[0]) - len(lines[0].lstrip())
    return "\n".join(line[indent:] if line[:indent].isspace() else line for line in lines)
