// How widely beta is proposed, and the curvature of the log-likelihood that a classifier then learns from draws.
{
  let seed = 1;
  const FIRST = live.range(-6, 6, 41), gains = {};
  const softplus = value => Math.max(value, 0) + Math.log1p(Math.exp(-Math.abs(value)));
  // 2 log 2 less the loss of the best classifier that is told a beta of standard deviation tau, in nats.
  const gain = tau => {
    const spread = Math.sqrt(1 + tau ** 2), step = FIRST[1] - FIRST[0];
    const r = (x, beta) => -((x - beta) ** 2) / 2 + (x / spread) ** 2 / 2 + Math.log(spread);
    let loss = 0;
    for (const a of FIRST) for (const b of FIRST)
      loss += live.density(a) * live.density(b) * step ** 2 * (softplus(-r(tau * a + b, tau * a)) + softplus(r(spread * b, tau * a)));
    return 2 * Math.LN2 - loss;
  };
  const widths = live.range(-0.5, 1.5, 25).map(log => 10 ** log), steps = live.range(-3, 3, 121);

  live.add({
    panels: {
      gain: {
        title: "To learn from a datum", alt: "The gain of the best classifier in nats, growing with the square of the proposal's width.",
        x: [-0.5, 1.5], y: [-6, 0], xlabel: "width of the proposal", ylabel: "gain, nats",
        xticks: {all: [0, 0.5, 1, 1.5]}, xshow: log => String(Math.round(10 ** log)),
        yticks: {all: [-6, -4, -2, 0]}, yshow: log => ({0: "1", "-2": "10⁻²", "-4": "10⁻⁴", "-6": "10⁻⁶"})[log],
      },
      sum: {
        title: "Sum of r over all data", alt: "The exact log-likelihood of beta, a parabola, and the learned one with a band of two standard errors.",
        x: [-3, 3], y: [-6, 3], xlabel: "β, in sd of the posterior", ylabel: "nats",
      },
    },
    inputs: {
      width: {label: "width", min: -0.5, max: 1.5, step: 0.05, value: 0, show: log => live.round(10 ** log, 1)},
      data: {label: "data N", min: 1, max: 4, step: 0.5, value: 3, show: log => live.count(log).toLocaleString("en")},
      pairs: {label: "pairs a class", min: 2, max: 4, step: 0.1, value: 3.3, show: log => live.count(log).toLocaleString("en")},
    },
    buttons: {"Draw again": () => { seed += 4; }},
    draw({at, panels: {gain: left, sum}, set}) {
      const N = live.count(at.data), count = live.count(at.pairs), width = 10 ** at.width, tau = width / Math.sqrt(1 + N);
      // Real pairs, and pairs whose x comes from another beta; r is logistic in 1, x^2, x beta and beta^2.
      const [beta, noise, other, fresh] = [0, 1, 2, 3].map(k => live.normals(count, seed + k));
      const rows = [
        ...beta.map((b, n) => [tau * b + noise[n], b]),
        ...other.map((b, n) => [Math.sqrt(1 + tau ** 2) * fresh[n], b]),
      ];
      const labels = rows.map((_, n) => Number(n < count));
      const {weights, covariance} = live.logistic(rows.map(([x, b]) => [1, x * x, x * b, b * b]), labels);
      const curvature = weights[3] / tau ** 2, error = Math.sqrt(covariance[3][3]) / tau ** 2;  // exact: -1/2
      const scale = N / (N + 1), precision = 1 - 2 * N * curvature;
      const ratio = precision > 0 ? Math.sqrt((1 + N) / precision) : Infinity;

      const curve = gains[N] ??= widths.map(value => gain(value / Math.sqrt(1 + N)));
      left.line(widths.map((value, k) => [Math.log10(value), Math.log10(curve[k])]), "exact");
      left.line(widths.map(value => [Math.log10(value), Math.log10(value ** 2 / (4 * N))]), "prior", {dash: "6 4"});
      left.legend([["exact", "exact"], ["prior", "width² / 4N", "6 4"]]);
      const here = gain(tau);
      left.handle("width", at.width, Math.log10(here), "lfvi", log => set({width: live.clip(log, -0.5, 1.5)}));
      sum.band(steps, steps.map(t => scale * (curvature - 2 * error) * t * t), steps.map(t => scale * (curvature + 2 * error) * t * t), "lfvi", 0.3);
      sum.line(steps.map(t => [t, scale * curvature * t * t]), "lfvi", {width: 3});
      sum.line(steps.map(t => [t, -0.5 * scale * t * t]), "exact");
      sum.legend([["exact", "exact"], ["lfvi", "learned, ± 2 errors"]]);
      return {
        says: `The best classifier gains ${here.toPrecision(2)} nats. Curvature learned, over the exact one: ${live.round(-2 * curvature)} ± ` +
          `${live.round(2 * error)}. ` + (precision > 0 ? `A q made with it would be ${live.round(ratio)} times as wide as the posterior.`
            : "It has the wrong sign: no q comes of it."),
        values: {rows, count, tau, gain: here, curvature: -2 * curvature, error: 2 * error, ratio},
      };
    },
  });
}
