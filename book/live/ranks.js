// A q that is shifted and too wide or narrow, in units of the exact posterior: the ranks of the truth, and the coverage.
{
  let seed = 1;
  const DRAWS = 99, BINS = 10, line = live.range(-4, 4, 201);
  // Where the count of one bin stays in 99 of 100 cases, if ranks are uniform: quantiles of the binomial distribution.
  const bounds = sets => {
    let chance = Math.exp(sets * Math.log(1 - 1 / BINS)), sum = chance, low = null, k = 0;
    for (;; k++) {
      if (low === null && sum >= 0.005) low = k;
      if (sum >= 0.995) return [low, k];
      sum += chance *= (sets - k) / (k + 1) / (BINS - 1);
    }
  };

  live.add({
    panels: {
      beside: {
        title: "q beside the posterior", alt: "The exact posterior and q, which can be shifted and widened, as bell curves.",
        x: [-4, 4], y: [0, 0.9], xlabel: "β, in sd of the posterior", ylabel: "density",
      },
      ranks: {
        title: "Ranks of the truth", alt: "A histogram of ten bars, with a gray band for a calibrated method and the expected heights as a line.",
        x: [0, 100], y: [0, 4], xlabel: "rank among 99 draws of q", ylabel: "share, of a tenth",
      },
    },
    inputs: {
      bias: {label: "bias", min: -2, max: 2, step: 0.05, value: 0},
      width: {label: "width", min: 0.3, max: 2, step: 0.01, value: 1},
      sets: {label: "data sets", min: 1.5, max: 3.5, step: 0.1, value: 2, show: log => live.count(log).toLocaleString("en")},
    },
    buttons: {"Simulate again": () => { seed += 2; }},
    draw({at, panels: {beside, ranks}, set}) {
      const {bias, width} = at, sets = live.count(at.sets), uniform = live.uniforms(seed + 1);
      const found = live.normals(sets, seed).map(truth => {
        const share = live.below((truth - bias) / width);
        let rank = 0;
        for (let draw = 0; draw < DRAWS; draw++) rank += uniform() < share;
        return rank;
      });
      const counts = Array(BINS).fill(0);
      for (const rank of found) counts[Math.floor(rank * BINS / (DRAWS + 1))]++;
      const [low, high] = bounds(sets), of = count => count * BINS / sets;
      // The chance that the truth lies below q's quantile of a share.
      const held = share => live.below(bias + width * live.quantile(share));
      const expected = counts.map((_, k) => BINS * ((k + 1 < BINS ? held((k + 1) / BINS) : 1) - (k ? held(k / BINS) : 0)));
      const coverage = share => held(0.5 + share / 2) - held(0.5 - share / 2);
      const outside = counts.filter(count => count < low || count > high).length;

      const q = line.map(value => live.density(value, bias, width));
      beside.band(line, q.map(() => 0), q, "paper", 0.3);
      beside.line(line.map((value, k) => [value, q[k]]), "paper");
      beside.line(line.map(value => [value, live.density(value)]), "exact");
      beside.legend([["exact", "exact"], ["paper", "q"]]);
      beside.handle("bias", bias, live.density(0) / width, "paper", value => set({bias: value}));
      beside.handle("width", bias + width, live.density(1) / width, "mean_field", value => set({width: Math.abs(value - bias)}));
      ranks.band([0, 100], [of(low), of(low)], [of(high), of(high)], "prior", 0.4);
      counts.forEach((count, k) => ranks.band([10 * k + 0.6, 10 * k + 9.4], [0, 0], [of(count), of(count)], "lfvi", 0.9));
      ranks.line(expected.flatMap((height, k) => [[10 * k, height], [10 * k + 10, height]]), "paper", {width: 2.5});
      ranks.legend([["lfvi", "counted"], ["paper", "expected"], ["prior", "if calibrated"]], bias > 0 ? "right" : "left");
      return {
        says: `Intervals of 90 % hold the truth ${live.round(100 * coverage(0.9), 1)} % of the time, those of 50 % ` +
          `${live.round(100 * coverage(0.5), 1)} %. With ${sets.toLocaleString("en")} data sets ${outside} of 10 bars ` +
          `${outside == 1 ? "leaves" : "leave"} the band.`,
        values: {found, counts, low, high, expected, coverage: [coverage(0.5), coverage(0.9)], bias, width},
      };
    },
  });
}
