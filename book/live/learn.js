// Four data that can be dragged, a classifier r(x, beta) that learns from simulated pairs, and a q(beta) that follows it.
// This is LFVI in a page: beta ~ N(0, 1), x ~ N(beta, 1), beta proposed from N(0, 1.5^2), reference: x of another beta.
{
  const WIDE = 1.5, BATCH = 128, PRESS = 500, START = [-0.5, 0.5, 1, 2], names = START.map((_, n) => `x${n + 1}`);
  const line = live.range(-4, 4, 161), still = matchMedia("(prefers-reduced-motion: reduce)");
  const features = (x, beta) => [1, x, beta, x * x / 4, x * beta / 2, beta * beta / 4];
  let weights, moments, center, log, seed, steps, real, other, timer = 0;
  const begin = () => {
    [weights, moments] = [[0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0].map(() => [0, 0])];
    [center, log, seed, steps, real, other] = [0, 0, 1, 0, [], []];
  };
  begin();
  const r = (x, beta) => live.dot(weights, features(x, beta));

  // One step of Adam for r on fresh draws, and one of q along the slope of the bound.
  const step = at => {
    const [beta, noise, wrong] = [0, 1, 2].map(k => live.normals(BATCH, seed + k));
    seed += 3;
    steps += 1;
    real = beta.map((b, n) => [WIDE * b, WIDE * b + noise[n]]);
    other = wrong.map((b, n) => [WIDE * b, real[n][1]]);
    const slope = weights.map(() => 0);
    for (const [pairs, label] of [[real, 1], [other, 0]])
      for (const [b, x] of pairs) {
        const all = features(x, b), miss = label - 1 / (1 + Math.exp(-live.dot(weights, all)));
        all.forEach((value, i) => { slope[i] += miss * value / BATCH; });
      }
    const rate = 0.03 / (1 + steps / 400);
    weights = weights.map((weight, i) => {
      const pair = moments[i] = [0.9 * moments[i][0] + 0.1 * slope[i], 0.99 * moments[i][1] + 0.01 * slope[i] ** 2];
      return weight + rate * pair[0] / (1 - 0.9 ** steps) / (Math.sqrt(pair[1] / (1 - 0.99 ** steps)) + 1e-8);
    });
    const width = Math.exp(log);
    let [toMean, toLog] = [0, 1];
    for (const [noise, share] of [[-Math.sqrt(3), 1 / 6], [0, 2 / 3], [Math.sqrt(3), 1 / 6]]) {  // exact for a parabola
      const b = center + width * noise;
      const push = names.reduce((sum, name) => sum + weights[2] + weights[4] * at[name] / 2 + weights[5] * b / 2, -b);
      toMean += share * push;
      toLog += share * push * noise * width;
    }
    center += 0.02 * toMean;
    log += 0.02 * toLog;
  };

  live.add({
    panels: {
      pairs: {
        title: "A classifier learns", alt: "Pairs of beta and x: real ones in blue, others in orange, on shades of the classifier's odds; the four data as green lines.",
        x: [-4, 4], y: [-4, 4], xlabel: "β", ylabel: "x",
      },
      posterior: {
        title: "q follows it", alt: "Densities of beta: the gray prior, the exact posterior in black, q in orange.",
        x: [-3, 3], y: [0, 1.1], xlabel: "β", ylabel: "density",
      },
    },
    inputs: Object.fromEntries(names.map((name, n) => [name, {label: `datum ${n + 1}`, min: -3.5, max: 3.5, step: 0.1, value: START[n]}])),
    buttons: {
      "Learn": ({at, again}) => {
        cancelAnimationFrame(timer);
        let left = PRESS;
        const some = () => {  // at once for those who do not like motion
          for (let k = 0; k < (still.matches ? PRESS : 5) && left > 0; k++, left--) step(at);
          again();
          if (left > 0) timer = requestAnimationFrame(some);
        };
        some();
      },
      "Forget": () => { cancelAnimationFrame(timer); begin(); },
    },
    draw({at, panels: {pairs, posterior}, set}) {
      const exact = names.reduce((sum, name) => sum + at[name], 0) / (names.length + 1), sd = (names.length + 1) ** -0.5;
      const width = Math.exp(log);
      pairs.shades((b, x) => 0.75 / (1 + Math.exp(-r(x, b))), 60);
      pairs.dots(other.slice(0, 80), "paper", {radius: 2.5});
      pairs.dots(real.slice(0, 80), "lfvi", {radius: 2.5});
      names.forEach((name, n) => {
        pairs.line([[-4, at[name]], [4, at[name]]], "data", {width: 1.5});
        pairs.handle(name, 2.2 + 0.5 * n, at[name], "data", (b, x) => set({[name]: x}));
      });
      const q = line.map(b => live.density(b, center, width));
      posterior.band(line, line.map(() => 0), line.map(b => live.density(b)), "prior", 0.4);
      posterior.band(line, line.map(() => 0), q, "paper", 0.3);
      posterior.line(line.map((b, k) => [b, q[k]]), "paper");
      posterior.line(line.map(b => [b, live.density(b, exact, sd)]), "exact");
      posterior.legend([["prior", "prior"], ["exact", "exact"], ["paper", "q"]], exact > 0 ? "left" : "right");
      return {
        says: `After ${steps.toLocaleString("en")} steps q has mean ${live.round(center)} and sd ${live.round(width)}; ` +
          `the exact posterior ${live.round(exact)} and ${live.round(sd)}. No likelihood was evaluated.`,
        values: {steps, center, width, exact, sd, weights},
      };
    },
  });
}
