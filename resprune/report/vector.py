"""A plot as part of a page: its colours are the page's variables, no id is there twice, and it is small.

What matplotlib writes says the same things again and again. A page of many plots takes a quarter of it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from html import escape

from resprune.report.drawing import Plot
from resprune.report.palette import PLACEHOLDERS, with_variables

_TAG = re.compile(r"<[^>]+>")
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
    text = _IMAGE.sub(_as_mask, text.replace("xlink:href", "href"))
    text = _slim(text, plot.name)
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
    tags = "".join(_TAG.findall(text))
    ids = {own: own for own in re.findall(r' id="([^"]*)"', tags) if own.startswith(f"{name}-")}
    for own in re.findall(r'(?:href="#|url\(#)([^")]+)', tags):
        ids.setdefault(own, f"{name}-{len(ids)}")
    text = re.sub(r">\s*\n\s*<", "><", text)
    text = _TAG.sub(lambda found: _slim_tag(found[0], ids), text)
    return _MARKERS.sub(_with_one_style, text)


def _slim_tag(tag: str, ids: Mapping[str, str]) -> str:
    """Return a tag with short ids; what a plot's text says is in none."""
    tag = re.sub(r' id="([^"]*)"', lambda found: f' id="{ids[found[1]]}"' if found[1] in ids else "", tag)
    tag = re.sub(r'(href="#|url\(#)([^")]+)', lambda found: found[1] + ids[found[2]], tag)
    tag = re.sub(r' transform="rotate\(-?0 [^)]*\)"', "", tag)
    tag = re.sub(r"font-family: [^;]*; ", "", tag)  # the page says once which font its plots have
    if "matrix(" in tag:  # with decimals that are those of a scale
        return tag
    tag = re.sub(r"-?\d+\.\d{3,}", lambda found: f"{float(found[0]):.2f}".rstrip("0").rstrip("."), tag)
    return re.sub(r' d="[^"]*"', lambda found: re.sub(r"\s*\n", "", found[0]), tag)


def _with_one_style(found: re.Match[str]) -> str:
    attributes, uses, style = found.groups()
    told = f' style="{style}"'
    return f"<g{attributes}{told}>{uses.replace(told, '')}</g>"
