"""The colours of reports, in light and dark, and what else tells curves apart."""

from __future__ import annotations

LIGHT = {
    "paper": "#ffffff",
    "panel": "#f3f4f6",
    "ink": "#16181d",
    "muted": "#545a66",
    "rule": "#c6cad2",
    "accent": "#0b5cad",
    "curve0": "#0b5cad",
    "curve1": "#b8400a",
    "curve2": "#0a7a4b",
    "curve3": "#8a3ab9",
    "curve4": "#a3164e",
    "curve5": "#6b5d00",
    "curve6": "#00707a",
    "curve7": "#5b4636",
    "curve8": "#c2255c",
    "curve9": "#3b3f8f",
}
"""Names of CSS variables -> colours."""
DARK = {
    "paper": "#14161a",
    "panel": "#1f2228",
    "ink": "#eceef2",
    "muted": "#a9b0bd",
    "rule": "#434955",
    "accent": "#7db8ff",
    "curve0": "#7db8ff",
    "curve1": "#ff9d66",
    "curve2": "#5fd6a0",
    "curve3": "#cf9dff",
    "curve4": "#ff8fb3",
    "curve5": "#e0cc4a",
    "curve6": "#56d3de",
    "curve7": "#cdb29c",
    "curve8": "#ff7a9e",
    "curve9": "#a9adff",
}
CURVES = 10
"""Number of colours of curves."""
MARKERS = "osD^vP*X<>d"
"""As many as share no factor with the numbers of colours and dashes: no two curves of 110 look alike."""
DASHES: tuple[tuple[float, ...], ...] = ((), (5, 1.6), (1.2, 1.4), (6, 1.6, 1.2, 1.6), (9, 2))
"""Lengths of dash and gap in points; empty is a solid line."""

PLACEHOLDERS = {name: f"#01fe{index:02x}" for index, name in enumerate(LIGHT)}
"""Colours that nothing else has, to be replaced by the CSS variables in a page that knows both schemes."""


def with_variables(svg: str) -> str:
    """Return an SVG that was drawn in `PLACEHOLDERS` with the page's CSS variables in their place."""
    for name, colour in PLACEHOLDERS.items():
        svg = svg.replace(colour, f"var(--{name})")
    return svg
