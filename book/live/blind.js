// Two normal distributions a distance apart, draws of both, and the log ratio that logistic regression finds in them.
{
  let seed = 1;
  const line = live.range(-6, 6, 241), SCALE = 3;
  const features = (x, degree) => Array.from({length: degree + 1}, (_, k) => (x / SCALE) ** k);

  live.add({
    panels: {
      draws: {
        title: "Draws of p and q", alt: "Two bell curves, p on the right and q on the left, and a strip with draws of each below them.",
        x: [-6, 6], y: [-0.12, 0.5], xlabel: "x", ylabel: "density",
      },
      ratio: {
        title: "Their log ratio", alt: "The exact log ratio as a straight line, the one found, with a band of two standard errors, and gray regions without draws of both.",
        x: [-6, 6], y: [-15, 15], xlabel: "x", ylabel: "log p/q",
      },
    },
    inputs: {
      distance: {label: "distance", min: 0, max: 8, step: 0.1, value: 1},
      size: {label: "draws of each", min: 1.3, max: 3.7, step: 0.1, value: 2.7, show: log => live.count(log).toLocaleString("en")},
      degree: {label: "degree of r", min: 1, max: 3, step: 1, value: 1, show: degree => ["line", "parabola", "cubic"][degree - 1]},
    },
    buttons: {"Draw again": () => { seed += 2; }},
    draw({at: {distance, size, degree}, panels: {draws, ratio}, set}) {
      const count = live.count(size);
      const p = live.normals(count, seed).map(value => value + distance / 2);
      const q = live.normals(count, seed + 1).map(value => value - distance / 2);
      const fit = live.logistic([...p, ...q].map(x => features(x, degree)), [...p.map(() => 1), ...q.map(() => 0)]);
      const {weights, covariance, separated} = fit;
      // Between these draws of both were seen.
      const [low, high] = [Math.max(Math.min(...p), Math.min(...q)), Math.min(Math.max(...p), Math.max(...q))];

      const peak = live.density(0);
      for (const [ink, mean, points, row] of [["lfvi", distance / 2, p, -0.04], ["paper", -distance / 2, q, -0.085]]) {
        const curve = line.map(x => live.density(x, mean));
        draws.band(line, line.map(() => 0), curve, ink, 0.35);
        draws.line(line.map((x, k) => [x, curve[k]]), ink);
        draws.dots(points.slice(0, 400).map(x => [x, row]), ink, {radius: 2.5, opacity: 0.5});
        draws.handle(ink == "lfvi" ? "p" : "q", mean, peak, ink, x => set({distance: Math.max(0, 2 * x * Math.sign(ink == "lfvi" ? 1 : -1))}));
      }
      draws.legend([["lfvi", "p"], ["paper", "q"]]);

      const found = line.map(x => live.dot(features(x, degree), weights));
      for (const [from, to] of low < high ? [[-6, low], [high, 6]] : [[-6, 6]])
        ratio.band([from, to], [-15, -15], [15, 15], "prior", 0.25);
      if (covariance && !separated) {
        const error = line.map(x => {
          const all = features(x, degree);
          return Math.sqrt(live.dot(all, covariance.map(row => live.dot(row, all))));
        });
        ratio.band(line, found.map((r, k) => r - 2 * error[k]), found.map((r, k) => r + 2 * error[k]), "data", 0.3);
      }
      ratio.line(line.map(x => [x, distance * x]), "exact", {dash: "6 4"});
      ratio.line(line.map((x, k) => [x, found[k]]), "data", {width: 3});
      ratio.legend([["exact", "exact", "6 4"], ["data", "found, ± 2 errors"], ["prior", "not both were seen"]]);

      const slope = weights[1] / SCALE, error = covariance ? Math.sqrt(covariance[1][1]) / SCALE : Infinity;
      const accuracy = live.below(distance / 2);
      const both = low < high ? `Draws of both lie between ${live.round(low, 1)} and ${live.round(high, 1)}.` : "No draws of p and q overlap.";
      return {
        says: `A perfect classifier is right ${live.round(100 * accuracy, 1)} % of the time. ` + (separated
          ? "These draws are separated: the steeper r, the better it explains them, and no slope is best. "
          : `Slope of r at zero: ${live.round(slope)} ± ${live.round(error)}, exact ${live.round(distance)}. `) + both,
        values: {p, q, degree, weights, separated, accuracy, slope, error},
      };
    },
  });
}
