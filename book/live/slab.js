// The slab of rejection ABC. Each of d numbers beta has a mean s of sixteen data; the first mean is observed where the
// reader drags it, the others at zero. Acceptance and ABC posterior are computed, and not counted.
{
  const N = 16, COUNT = 2000, MOST = 8, variance = 1 + 1 / N, weight = N / (N + 1), sd = (1 + N) ** -0.5;
  const beta = live.normals(COUNT, 1), noise = live.normals(COUNT, 2), others = live.normals(COUNT * (MOST - 1), 3);
  const s = beta.map((value, n) => value + noise[n] / Math.sqrt(N));
  const line = live.range(-3, 3, 181), prior = line.map(value => live.density(value));

  // P(sum of `degrees` squared normal numbers <= x), by a series of positive terms.
  const chiSquared = (x, degrees) => {
    if (!degrees) return 1;
    let gamma = degrees % 2 ? Math.sqrt(Math.PI) : 1;  // of degrees / 2 + 1
    for (let k = degrees % 2 ? 0.5 : 1; k <= degrees / 2; k++) gamma *= k;
    let term = (x / 2) ** (degrees / 2) * Math.exp(-x / 2) / gamma, sum = term;
    for (let k = 1; k < 60; k++) sum += term *= x / 2 / (degrees / 2 + k);
    return sum;
  };

  live.add({
    panels: {
      cloud: {
        title: "Simulations", alt: "A cloud of simulated pairs of beta and s; those within the slab around the observed mean are blue.",
        x: [-3, 3], y: [-3, 3], xlabel: "β, the first", ylabel: "its simulated mean s",
      },
      posterior: {
        title: "What the slab keeps", alt: "Densities of beta: the gray prior, the exact posterior, and the blue ABC posterior.",
        x: [-3, 3], y: [0, 1.9], xlabel: "β, the first", ylabel: "density",
      },
    },
    inputs: {
      observed: {label: "observed mean", min: -2.5, max: 2.5, step: 0.05, value: 0.8},
      tolerance: {label: "tolerance ε", min: 0.05, max: 2, step: 0.01, value: 0.4},
      dimension: {label: "dimension d", min: 1, max: MOST, step: 1, value: 1},
    },
    draw({at: {observed, tolerance, dimension}, panels: {cloud, posterior}, set}) {
      const kept = [], left = [];
      s.forEach((value, n) => {
        let square = (value - observed) ** 2;
        for (let k = 0; k < dimension - 1; k++) square += variance * others[n * (MOST - 1) + k] ** 2;
        (square <= tolerance ** 2 ? kept : left).push([beta[n], value]);
      });
      // The first mean within the slab, at the middles of 600 strips: how often, and what is then known of beta.
      let acceptance = 0, mean = 0, square = 0;
      const curve = line.map(() => 0), strips = 600;
      for (let k = 0; k < strips; k++) {
        const off = tolerance * (2 * (k + 0.5) / strips - 1), at = observed + off;
        const chance = live.density(at, 0, Math.sqrt(variance)) * 2 * tolerance / strips *
          chiSquared((tolerance ** 2 - off ** 2) / variance, dimension - 1);
        acceptance += chance;
        mean += chance * at;
        square += chance * at ** 2;
        if (k % 6 == 3) line.forEach((value, i) => { curve[i] += chance * live.density(value, weight * at, sd); });
      }
      mean /= acceptance;
      const width = Math.sqrt(sd ** 2 + weight ** 2 * (square / acceptance - mean ** 2));
      const area = curve.reduce((sum, value) => sum + value, 0) * (line[1] - line[0]);

      cloud.band([-3, 3], [observed - tolerance, observed - tolerance], [observed + tolerance, observed + tolerance], "data", 0.2);
      cloud.line([[-3, observed], [3, observed]], "data");
      cloud.dots(left, "prior", {radius: 1.5, opacity: 0.7});
      cloud.dots(kept, "lfvi", {radius: 2.5, opacity: 1});
      cloud.handle("tolerance", 2.5, observed + tolerance, "paper", (x, y) => set({tolerance: Math.abs(y - observed)}));
      cloud.handle("observed", 2.5, observed, "data", (x, y) => set({observed: y}));
      posterior.band(line, prior.map(() => 0), prior, "prior", 0.4);
      posterior.line(line.map((value, i) => [value, curve[i] / area]), "lfvi", {width: 3});
      posterior.line(line.map(value => [value, live.density(value, weight * observed, sd)]), "exact");
      posterior.legend([["prior", "prior"], ["lfvi", "within the slab"], ["exact", "exact"]], observed > 0 ? "left" : "right");
      const share = acceptance < 0.0001 ? `one in ${Math.round(1 / acceptance).toLocaleString("en")}` : `${(100 * acceptance).toPrecision(2)} %`;
      return {
        says: `Kept: ${kept.length} of 2,000; expected ${share}. Within the slab mean ${live.round(weight * mean)} and sd ` +
          `${live.round(width)}; exact ${live.round(weight * observed)} and ${live.round(sd)}.`,
        values: {kept: kept.length, acceptance, mean: weight * mean, sd: width},
      };
    },
  });
}
