// One x, its posterior, and guesses of q that the slope of the log-odds pushes. Each push moves q; its KL is exact.
{
  const sd = Math.SQRT1_2, COUNT = 40, line = live.range(-5, 5, 241);
  const noise = Array.from({length: COUNT}, (_, k) => live.quantile((k + 0.5) / COUNT));
  const divergence = (mean, width, x) => Math.log(sd / width) + (width ** 2 + (mean - x / 2) ** 2) / (2 * sd ** 2) - 0.5;
  let trail = [], start = "";
  const slope = (z, {mean, width, x}) => (x / 2 - z) / sd ** 2 + (z - mean) / width ** 2;
  // A step along the average push of mean and of log width, with steps as a trained q takes them.
  const push = ({at, set}) => {
    const {mean, width} = at, guesses = noise.map(one => mean + width * one), pushes = guesses.map(z => slope(z, at));
    const average = values => values.reduce((sum, value) => sum + value, 0) / COUNT;
    trail.push([mean, Math.log(width)]);
    set({
      mean: mean + 0.1 * average(pushes),
      width: width * Math.exp(live.clip(0.1 * average(pushes.map((one, k) => one * width * noise[k])), -0.5, 0.5)),
    });
    start = null;
  };

  live.add({
    panels: {
      guesses: {
        title: "Guesses and pushes", alt: "The exact posterior and q as bell curves over z; below, guesses with arrows along the slope of the log-odds.",
        x: [-5, 5], y: [-0.45, 1.1], xlabel: "z", ylabel: "density",
      },
      plane: {
        title: "KL divergence", alt: "The plane of q's mean and width: darker where the KL divergence is small, a disc where q is, and its way there.",
        x: [-4, 4], y: [Math.log(0.2), Math.log(3)], xlabel: "mean of q", ylabel: "width of q",
        yticks: {all: [0.25, 0.5, 1, 2].map(Math.log)}, yshow: value => String(Math.exp(value).toPrecision(2) / 1),
      },
    },
    inputs: {
      mean: {label: "mean of q", min: -4, max: 4, step: "any", value: 1},
      width: {label: "width of q", min: 0.2, max: 3, step: "any", value: 1.4},
      x: {label: "the datum x", min: -4, max: 4, step: 0.1, value: 2},
    },
    buttons: {"Push once": push},
    draw({at, panels: {guesses, plane}, set, locked}) {
      const {mean, width, x} = at, kl = divergence(mean, width, x), key = `${mean} ${width} ${x}`;
      if (start !== null && start != key) trail = [];  // the reader took q elsewhere
      start = key;
      const q = line.map(z => live.density(z, mean, width)), exact = line.map(z => live.density(z, x / 2, sd));
      guesses.band(line, q.map(() => 0), q, "paper", 0.3);
      guesses.line(line.map((z, k) => [z, q[k]]), "paper");
      guesses.line(line.map((z, k) => [z, exact[k]]), "exact");
      const shown = [2, 8, 14, 20, 25, 31, 37];
      guesses.dots(noise.map(one => [mean + width * one, -0.06]), "paper", {radius: 3});
      if (!locked) shown.forEach((k, row) => {
        const z = mean + width * noise[k], pushed = live.clip(0.4 * slope(z, at), -2.5, 2.5);
        guesses.arrow(z, -0.12 - 0.045 * row, pushed, "lfvi");
      });
      guesses.handle("mean", mean, live.density(0, 0, width), "paper", z => set({mean: z}));
      guesses.handle("width", mean + width, live.density(1, 0, 1) / width, "mean_field", z => set({width: live.clip(Math.abs(z - mean), 0.2, 3)}));
      guesses.handle("x", x / 2, live.density(0, 0, sd), "exact", z => set({x: 2 * z}));
      guesses.legend([["exact", "posterior"], ["paper", "q"], ["lfvi", "push"]], mean + x / 2 > 0 ? "left" : "right");

      plane.shades((m, log) => Math.exp(-divergence(m, Math.exp(log), x)), 90);
      plane.line([...trail, [mean, Math.log(width)]], "paper", {width: 2});
      plane.dots(trail, "paper", {radius: 3.5, opacity: 1});
      plane.dots([[x / 2, Math.log(sd)]], "data", {radius: 5, opacity: 1});
      plane.handle("q", mean, Math.log(width), "paper", (m, log) => set({mean: m, width: live.clip(Math.exp(log), 0.2, 3)}));

      const odds = noise.map(one => mean + width * one).map(z => Math.log(live.density(z, x / 2, sd) / live.density(z, mean, width)));
      const estimate = -odds.reduce((sum, value) => sum + value, 0) / COUNT;
      return {
        says: `KL divergence of q from the posterior: ${live.round(kl, 3)} nats, exactly; minus the mean log-odds of the ` +
          `40 guesses says ${live.round(estimate, 3)}. Posterior: mean ${live.round(x / 2)}, width ${live.round(sd)}.`,
        values: {kl, estimate, mean, width, x, pushes: shown.map(k => slope(mean + width * noise[k], at)), guesses: noise.map(one => mean + width * one)},
      };
    },
  });
}
