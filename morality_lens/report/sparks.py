"""Small curves inside a table: an effect over rounds or layers, with its band."""

import numpy as np
from markupsafe import Markup, escape

from morality_lens.interactions.numbers import number
from morality_lens.report.summary import Curve

WIDTH, HEIGHT, EDGE = 92, 30, 4


def spark(curve: Curve, *, color: str, name: str) -> Markup:
    """A curve as inline SVG: its band, the line of zero and a dot at the place that is told.

    Args:
        curve: the effect over rounds or layers.
        color: of the line, as the effect has it in every figure.
        name: of the effect, for readers that do not see the picture.
    """
    x = np.array(curve.x, dtype=float)
    lines = [np.array(one, dtype=float) for one in (curve.estimate, curve.low, curve.high)]
    known = np.concatenate([[0.0], *(one[np.isfinite(one)] for one in lines)])
    bottom, top = float(known.min()), float(known.max())
    across = EDGE + (x - x.min()) / max(float(np.ptp(x)), 1.0) * (WIDTH - 2 * EDGE)

    def up(values: np.ndarray) -> np.ndarray:
        return HEIGHT - EDGE - (values - bottom) / ((top - bottom) or 1.0) * (HEIGHT - 2 * EDGE)

    estimate, low, high = map(up, lines)
    both = np.isfinite(low) & np.isfinite(high)
    parts = [f'<line x1="0" x2="{WIDTH}" y1="{up(np.zeros(1))[0]:.1f}" y2="{up(np.zeros(1))[0]:.1f}"/>']
    if both.any():
        outline = [
            *zip(across[both], high[both], strict=True),
            *zip(across[both][::-1], low[both][::-1], strict=True),
        ]
        parts.append(f'<polygon points="{_points(outline)}" fill="{color}"/>')
    drawn = [(a, e) for a, e in zip(across, estimate, strict=True) if np.isfinite(e)]
    parts.append(f'<polyline points="{_points(drawn)}" stroke="{color}"/>')
    if np.isfinite(estimate[curve.at]):
        parts.append(
            f'<circle cx="{across[curve.at]:.1f}" cy="{estimate[curve.at]:.1f}" r="3" fill="{color}"/>'
        )
    told = ", ".join(f"{at}: {number(value)}" for at, value in zip(curve.x, curve.estimate, strict=True))
    label = escape(f"{name} by {curve.axis}: {told}")
    return Markup(
        f'<svg class="spark" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{label}"><title>{label}</title>{"".join(parts)}</svg>'
    )


def _points(places: list) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
