"""A plot as part of a page: its colours are the page's variables, no id is there twice, and it is small.

What matplotlib writes says the same things again and again. A page of many plots is a quarter of that.
"""

from __future__ import annotations

import re
from html import escape

from resprune.report.drawing import Plot
from resprune.report.palette import PLACEHOLDERS, with_variables

_IMAGE = re.compile(
    r'<image href="(?P<data>[^"]*)" id="(?P<name>[^"]*)" (?P<size>width="\d+" height="\d+")'
    r' (?P<place>transform="[^"]*") style="[^"]*"/>'
)
_MARKERS = re.compile(r'<g([^>]*)>((?:<use [^>]*?) style="([^"]*)"/>(?:<use [^>]*? style="\3"/>)*)</g>')


def inline(plot: Plot) -> str:
    """Return a plot as an SVG element for a page that has the palette's CSS variables.

    Its ids begin with the plot's name, so that no two in a page are alike.
    """
    text = with_variables(plot.svg(PLACEHOLDERS))
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*|<defs>\s*<style.*?</defs>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r' xmlns(:\w+)?="[^"]*"| width="[\d.]+pt"| height="[\d.]+pt"', "", text)
    text = text.replace("xlink:href", "href")
    text = _IMAGE.sub(_as_mask, text)
    text = _slim(text, plot.name)
    own = rf"{plot.name}-"
    text = re.sub(rf'( id="| href="#|url\(#)(?!{re.escape(own)})', rf"\g<1>{own}", text)
    return text.strip().replace("<svg ", f'<svg role="img" aria-label="{escape(plot.title)}" ', 1)


def _as_mask(found: re.Match[str]) -> str:
    """Return what shows an image in the page's accent colour, as strongly as the image is opaque."""
    name, size = found["name"], found["size"]
    return (
        f'<mask id="{name}-mask" style="mask-type:alpha">'
        f'<image href="{found["data"]}" {size} style="image-rendering:pixelated"/></mask>'
        f'<rect id="{name}" {size} {found["place"]} style="fill: var(--accent)" mask="url(#{name}-mask)"/>'
    )


def _slim(text: str, name: str) -> str:
    """Return an SVG that looks the same, without ids and styles that nothing needs, in hundredths of points."""
    needed = set(re.findall(r'(?:href="#|url\(#)([^")]+)', text))
    text = re.sub(
        r' id="([^"]*)"',
        lambda found: found[0] if found[1] in needed or found[1].startswith(f"{name}-") else "",
        text,
    )
    text = re.sub(r"> *\n *<", "><", text)
    text = re.sub(r' transform="rotate\(-?0 [^)]*\)"', "", text)
    # The page says once which font its plots have.
    text = re.sub(r"font-family: [^;]*; ", "", text)
    text = re.sub(r" d=\"[^\"]*\"", lambda found: re.sub(r"\s*\n", "", found[0]), text)
    text = re.sub(r"<[^>]+>", lambda found: _rounded(found[0]), text)
    return _MARKERS.sub(_with_one_style, text)


def _rounded(tag: str) -> str:
    """Return a tag whose coordinates have two decimals at most; a matrix keeps those of its scale."""
    if "matrix(" in tag:
        return tag
    return re.sub(r"-?\d+\.\d{3,}", lambda found: f"{float(found[0]):.2f}".rstrip("0").rstrip("."), tag)


def _with_one_style(found: re.Match[str]) -> str:
    attributes, uses, style = found.groups()
    told = f' style="{style}"'
    return f"<g{attributes}{told}>{uses.replace(told, '')}</g>"
