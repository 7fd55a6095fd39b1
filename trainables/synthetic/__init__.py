"""Built-in data: brightfield lymphocytes with exact labels, outlines and tracks."""

from trainables.synthetic.dataset import (
    POPULATIONS,
    Cell,
    Frame,
    generate,
    main,
    outline_from_text,
    outline_text,
    rasterize,
    render_frame,
    simulate,
)

__all__ = [
    "POPULATIONS",
    "Cell",
    "Frame",
    "generate",
    "main",
    "outline_from_text",
    "outline_text",
    "rasterize",
    "render_frame",
    "simulate",
]
