// A sheet with normal ink, folded along creases that can be dragged; under one place the layers are counted.
{
  const start = [[20, 0.8], [157.5, 0.6], [295, 0.5], [72, 0.3]];  // direction in degrees, distance from the middle
  const creases = start.map(pair => [...pair]);
  let shown = 1;
  // The far side of a crease is mirrored to the near one, where the middle of the sheet is.
  const normal = ([degrees, distance]) => [-Math.cos(degrees * Math.PI / 180), -Math.sin(degrees * Math.PI / 180), -distance];
  // All places of the sheet that come to lie at (x, y), by unfolding: the last crease first.
  const origins = (x, y, folds, found = []) => {
    if (!folds) found.push([x, y]);
    else {
      const [u, v, c] = normal(creases[folds - 1]), side = x * u + y * v - c;
      if (side >= 0) {
        origins(x, y, folds - 1, found);
        origins(x - 2 * side * u, y - 2 * side * v, folds - 1, found);
      }
    }
    return found;
  };
  const ink = ([x, y]) => Math.exp(-(x * x + y * y) / 2) / (2 * Math.PI);
  const total = places => places.reduce((sum, place) => sum + ink(place), 0);

  live.add({
    panels: {
      packet: {
        title: "Against the lamp", alt: "The folded sheet, darker where more ink lies, with its creases as lines and a disc.",
        x: [-2.2, 2.2], y: [-2.2, 2.2], square: true, height: 290,
      },
      sheet: {
        title: "Where it lay on the sheet", alt: "The sheet before it was folded: round shades of ink, and a dot at each place that came to lie under the disc.",
        x: [-4.4, 4.4], y: [-4.4, 4.4], square: true, height: 290,
      },
    },
    inputs: {
      folds: {label: "folds", min: 0, max: 4, step: 1, value: 3},
      crease: {label: "crease moved", min: 1, max: 4, step: 1, value: 1},
      direction: {label: "its direction", min: 0, max: 360, step: 0.5, value: start[0][0], show: degrees => `${degrees.toFixed(0)}°`},
      distance: {label: "its distance", min: 0, max: 2, step: 0.01, value: start[0][1]},
      x: {label: "disc, right", min: -2, max: 2, step: 0.01, value: 0.3},
      y: {label: "disc, up", min: -2, max: 2, step: 0.01, value: 0.9},
    },
    draw({at, panels: {packet, sheet}, set, locked}) {
      const chosen = at.crease - 1;
      if (at.crease != shown) {  // another crease: the sliders go to where it lies
        shown = at.crease;
        set({direction: creases[chosen][0], distance: creases[chosen][1]});
      } else creases[chosen] = [at.direction, at.distance];

      let most = 0;
      packet.shades((x, y) => {
        const places = origins(x, y, at.folds);
        most = Math.max(most, places.length);
        return total(places) / 0.6;
      }, 120);
      creases.slice(0, at.folds).forEach((crease, k) => {
        const [u, v, c] = normal(crease);
        packet.line([[c * u - 9 * v, c * v + 9 * u], [c * u + 9 * v, c * v - 9 * u]], "paper", {width: k == chosen ? 3 : 1.5});
      });
      start.forEach((_, k) => {
        const [u, v, c] = normal(creases[k]), hidden = k >= at.folds;
        packet.handle(`crease ${k + 1}`, c * u, c * v, "paper", (x, y) => {
          creases[k] = [(Math.atan2(y, x) * 180 / Math.PI + 360) % 360, Math.min(Math.hypot(x, y), 2)];
          shown = k + 1;
          set({crease: k + 1, direction: creases[k][0], distance: creases[k][1]});
        });
        packet.handles[`crease ${k + 1}`].setAttribute("display", hidden ? "none" : "inline");
      });
      packet.line([[at.x - 0.2, at.y], [at.x + 0.2, at.y]], "data", {width: 3});
      packet.line([[at.x, at.y - 0.2], [at.x, at.y + 0.2]], "data", {width: 3});
      packet.handle("disc", at.x, at.y, "data", (x, y) => set({x, y}));

      const places = origins(at.x, at.y, at.folds), density = total(places);
      sheet.shades((x, y) => ink([x, y]) / 0.3, 80);
      if (!locked) sheet.dots(places, "data", {radius: 5, opacity: 1});
      const parts = places.map(ink).sort((a, b) => b - a).map(part => live.round(part, 3));
      return {
        says: places.length
          ? `Under the disc lie ${places.length} layer${places.length > 1 ? "s" : ""}, of ${2 ** at.folds} possible. ` +
            `Density ${live.round(density, 3)}${places.length > 1 ? ` = ${parts.join(" + ")}` : ""}. Most layers anywhere: ${most}.`
          : `No layer lies under the disc: the sheet was folded away. Most layers anywhere: ${most}.`,
        values: {layers: places.length, density, most, creases: creases.slice(0, at.folds).map(normal), x: at.x, y: at.y},
      };
    },
  });
}
