"""Where tests leave pictures for people to look at; `make pictures` takes some into the docs."""

from pathlib import Path

PICTURES = Path(__file__).parent / "pictures"


def picture(name: str) -> Path:
    PICTURES.mkdir(exist_ok=True)
    return PICTURES / f"{name}.png"
