"""The two pictures of docs/EXAMPLE.md, drawn as SVG from exact numbers.

`concentration` shows what each owner gets with and without the cap; `stages` where the time of a run goes. Both are pure
functions of their arguments, so the same result is the same picture, byte for byte. Each lies on a surface of its own and
knows a light and a dark one, so that a page of either kind can show it.
"""
import math

WIDTH = 800

STYLE = """
  .surface { fill: #fcfcfb; stroke: #dddcd8 } .grid { stroke: #e6e5e1 } .axis { stroke: #8a8983 }
  text { font: 13px system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; fill: #52514e }
  .title { font-size: 17px; font-weight: 600; fill: #0b0b0b } .strong { font-weight: 600; fill: #0b0b0b }
  .after { stroke: #2a78d6 } .after-text { fill: #1c5cab; font-weight: 600 } .after-area { fill: #2a78d6; opacity: .16 }
  .before { stroke: #d95926 } .before-text { fill: #b3431a; font-weight: 600 } .before-area { fill: #d95926; opacity: .16 }
  .line { fill: none; stroke-width: 2; stroke-linejoin: round } .rule { stroke: #8a8983; stroke-dasharray: 5 4 }
  .bar { fill: #2a78d6 }
  @media (prefers-color-scheme: dark) {
    .surface { fill: #1a1a19; stroke: #383835 } .grid { stroke: #2f2f2c } .axis, .rule { stroke: #84837c }
    text { fill: #c3c2b7 } .title, .strong { fill: #ffffff }
    .after { stroke: #3987e5 } .after-text { fill: #86b6ef } .after-area { fill: #3987e5; opacity: .25 }
    .before { stroke: #e0713f } .before-text { fill: #f0a17c } .before-area { fill: #e0713f; opacity: .25 }
    .bar { fill: #3987e5 }
  }
"""


def dollars(cents):
    return f"${cents / 100:,.0f}"


def text(x, y, content, kind="", anchor="start"):
    content = content.replace("&", "&amp;").replace("<", "&lt;")
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">{content}</text>'


def line(x1, y1, x2, y2, kind):
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>'


def path(points, kind, close=False):
    drawn = " ".join(f"{'ML'[place > 0]}{x:.1f} {y:.1f}" for place, (x, y) in enumerate(points))
    return f'<path d="{drawn}{" Z" if close else ""}" class="{kind}"/>'


def document(height, description, parts):
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'width="{WIDTH}" height="{height}" role="img">',
        f"<title>{description}</title>",
        f"<style>{STYLE}</style>",
        f'<rect x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="8" class="surface"/>',
        *parts,
        "</svg>\n",
    ])


# ------------------------------------------------------------------------------------- who gets what, cap or no cap

class Plane:
    """Rank against dollars, both logarithmic: a few dozen owners and thousands of them in the same picture."""

    LEFT, RIGHT, TOP, BOTTOM = 88, WIDTH - 40, 92, 452

    def __init__(self, owners, cents_min, cents_max):
        self.owners, self.cents_min, self.cents_max = owners, cents_min, cents_max

    def x(self, rank):
        return self.LEFT + math.log(rank) / math.log(self.owners) * (self.RIGHT - self.LEFT)

    def y(self, cents):
        height = math.log(cents / self.cents_min) / math.log(self.cents_max / self.cents_min)
        return self.BOTTOM - height * (self.BOTTOM - self.TOP)

    def points(self, amounts):
        """A point for each pixel across, which is as fine as can be seen."""
        ranks = {max(1, round(self.owners ** (pixel / (self.RIGHT - self.LEFT))))
                 for pixel in range(self.RIGHT - self.LEFT + 1)}
        return [(self.x(rank), self.y(amounts[rank - 1])) for rank in sorted(ranks) if rank <= len(amounts)]

    def grid(self):
        for power in range(2, 8):
            cents = 10 ** power
            if self.cents_min <= cents <= self.cents_max:
                yield line(self.LEFT, self.y(cents), self.RIGHT, self.y(cents), "grid")
                yield text(self.LEFT - 10, self.y(cents) + 4, dollars(cents), anchor="end")
        for power in range(0, 8):
            rank = 10 ** power
            if rank <= self.owners:
                yield line(self.x(rank), self.TOP, self.x(rank), self.BOTTOM, "grid")
                yield text(self.x(rank), self.BOTTOM + 20, f"{rank:,}", anchor="middle")
        yield line(self.LEFT, self.BOTTOM, self.RIGHT, self.BOTTOM, "axis")
        middle = (self.LEFT + self.RIGHT) / 2
        yield text(middle, self.BOTTOM + 42, "owners by rank (both scales logarithmic)", anchor="middle")


def concentration(shares, payouts, cap, smallest):
    """`shares`: cents of each owner if there were no cap, before dust; `payouts`: cents really paid. In any order."""
    before = sorted((cents for cents in shares if cents), reverse=True)
    after = sorted(payouts, reverse=True)
    over_cap = [cents for cents in before if cents > cap]
    paid_before = sum(cents >= smallest for cents in before)
    capped = sum(cents == cap for cents in after)
    # One decade above the largest share, and some room under the smallest payout for the line that ends there.
    plane = Plane(len(before), smallest / 3, 10 ** math.ceil(math.log10(max(before[0], cap))))

    visible = [cents for cents in before if cents >= plane.cents_min]
    over, under = plane.points(visible), plane.points(after)
    crossing = plane.x(capped)
    taken = [point for point in over if point[1] <= plane.y(cap)]
    handed_on = [point for point in under if point[0] >= crossing]
    below = [point for point in over if handed_on[0][0] <= point[0] <= handed_on[-1][0]]

    parts = [
        text(28, 36, f"What the cap takes from {len(over_cap)} owners, thousands of others share", "title"),
        text(28, 60, f"{dollars(sum(over_cap) - cap * len(over_cap))} of {dollars(sum(before))} lie over the cap and go "
                     f"round again: {len(after):,} owners are paid, not {paid_before:,}."),
        *plane.grid(),
        path([*taken, (taken[-1][0], plane.y(cap)), (plane.LEFT, plane.y(cap))], "before-area", close=True),
        path([*handed_on, *reversed(below)], "after-area", close=True),
        line(plane.LEFT, plane.y(smallest), plane.RIGHT, plane.y(smallest), "rule"),
        path(over, "line before"),
        path([*under, (under[-1][0], plane.BOTTOM)], "line after"),
        text(plane.x(2) + 14, plane.y(before[1]), f"without a cap: {dollars(before[0])} for the first", "before-text"),
        text(plane.LEFT + 12, plane.y(cap) + 22, "with the cap:", "after-text"),
        text(plane.LEFT + 12, plane.y(cap) + 40, f"{dollars(cap)} for each of {capped}", "after-text"),
        text(plane.LEFT + 12, plane.y(smallest) + 18, f"under {dollars(smallest)}: not paid"),
        text(under[-1][0] - 8, plane.y(smallest) + 18, f"{len(after):,} paid", "after-text", "end"),
    ]
    return document(516, "Payouts of all owners by rank, with and without the cap", parts)


# ------------------------------------------------------------------------------------------------ where time goes

def stages(timings_ms, subtitle):
    """A bar for each stage, in the order given; `total`, if there, is said in words."""
    bars = {name: value for name, value in timings_ms.items() if name != "total"}
    total = timings_ms.get("total", sum(bars.values()))
    left, right, top, step = 128, WIDTH - 110, 92, 34
    longest = max(bars.values()) or 1
    parts = [text(28, 36, f"Where {total:,.0f} ms go", "title"), text(28, 60, subtitle)]
    for place, (name, value) in enumerate(bars.items()):
        y = top + place * step
        width = max(1.5, value / longest * (right - left))
        parts += [
            text(left - 12, y + 16, name, anchor="end"),
            f'<rect x="{left}" y="{y}" width="{width:.1f}" height="22" rx="3" class="bar"/>',
            text(left + width + 8, y + 16, f"{value:,.1f} ms", "strong"),
        ]
    bottom = top + len(bars) * step
    parts.append(line(left, top - 6, left, bottom - 6, "axis"))
    return document(bottom + 18, "Milliseconds of each stage of a run", parts)
