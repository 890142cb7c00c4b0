"""Line plots as SVG, small enough to commit: no library, no script, dark on white."""
WIDTH, HEIGHT = 640, 360
LEFT, RIGHT, TOP, BOTTOM = 60, 150, 34, 46
COLOURS = ("#0b6e99", "#c4461f", "#3f7d20", "#7a3e9d", "#a07800", "#444444")


def ticks(low, high):
    step = 10.0 ** len(str(int(high - low)))
    while (high - low) / step < 4:
        step /= 2 if str(step).strip("0.")[:1] in "1" else 2.5
    first = int(low / step) * step
    values = []
    while first <= high + step / 2:
        if first >= low - 1e-9:
            values.append(round(first, 6))
        first += step
    return values


def escape(text):
    return str(text).replace("&", "&amp;").replace("<", "&lt;")


def lines(title, x_name, y_name, labels, series, goal=None):
    """labels: the places on the x axis, evenly spaced. series: {name: [(i, y, low, high)]}."""
    ys = [v for points in series.values() for p in points for v in p[1:]] + [1.0] + ([goal] if goal else [])
    low, high = min(ys), max(ys)
    pad = (high - low or 0.1) * 0.06
    low, high = low - pad, high + pad
    width, height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def x(i):
        return LEFT + width * (i + 0.5) / len(labels)

    def y(v):
        return TOP + height * (high - v) / (high - low)

    out = ['<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" '
           'font-family="sans-serif" font-size="12">' % (WIDTH, HEIGHT, WIDTH, HEIGHT),
           '<rect width="100%" height="100%" fill="#fff"/>',
           '<text x="%d" y="20" font-size="14" font-weight="bold">%s</text>' % (LEFT, escape(title))]
    for v in ticks(low, high):
        out.append('<path d="M%d %.1fH%d" stroke="#ddd"/><text x="%d" y="%.1f" text-anchor="end">%g</text>'
                   % (LEFT, y(v), LEFT + width, LEFT - 6, y(v) + 4, v))
    for i, label in enumerate(labels):
        out.append('<text x="%.1f" y="%d" text-anchor="middle">%s</text>' % (x(i), TOP + height + 18, escape(label)))
    out.append('<text x="%d" y="%d" text-anchor="middle">%s</text>' % (LEFT + width / 2, HEIGHT - 8, escape(x_name)))
    out.append('<text transform="translate(14 %d) rotate(-90)" text-anchor="middle">%s</text>'
               % (TOP + height / 2, escape(y_name)))
    if goal:
        out.append('<path d="M%d %.1fH%d" stroke="#888" stroke-dasharray="5 4"/><text x="%d" y="%.1f" fill="#666">goal %g</text>'
                   % (LEFT, y(goal), LEFT + width, LEFT + width + 8, y(goal) + 4, goal))
    place = TOP + 10
    for n, (name, points) in enumerate(series.items()):
        colour = COLOURS[n % len(COLOURS)]
        out.append('<polyline fill="none" stroke="%s" stroke-width="2" points="%s"/>'
                   % (colour, " ".join("%.1f,%.1f" % (x(p[0]), y(p[1])) for p in points)))
        for p in points:
            out.append('<path d="M%.1f %.1fV%.1f" stroke="%s"/><circle cx="%.1f" cy="%.1f" r="3" fill="%s"/>'
                       % (x(p[0]), y(p[2]), y(p[3]), colour, x(p[0]), y(p[1]), colour))
        out.append('<path d="M%d %dh16" stroke="%s" stroke-width="2"/><text x="%d" y="%d">%s</text>'
                   % (LEFT + width + 12, place + 20 * n + 14, colour, LEFT + width + 34, place + 20 * n + 18, escape(name)))
    return "\n".join(out + ["</svg>", ""])
