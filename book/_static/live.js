// Live figures: a reader answers a question, then drags what the answer is about. No library, and no request.
// A figure is one script, book/live/NAME.js, that calls live.add({panels, inputs, draw}); CONTRIBUTING.md has an example.
//   panels   {name: {title, alt, x: [low, high], y: [low, high], xlabel, ylabel, height, square}}
//   inputs   {name: {label, min, max, step, value, show}}: a slider each, so that the keyboard moves all that a finger can
//   buttons  {label: ({at, set, again}) => ...}, if any: what is pressed may change; `again` draws again
//   draw     ({at, panels, set, locked}) => {says, values}: `at` holds the inputs; `says` is shown below, `values` tested
// Handles in a panel are a second way to move the sliders.
document.documentElement.classList.add("scripts");

window.live = (() => {
  // ---- Numbers -------------------------------------------------------------------------------------------------

  // Uniform numbers from a seed (mulberry32), and normal ones (Box and Muller).
  const uniforms = seed => () => {
    seed = (seed + 0x6D2B79F5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
  const normals = (count, seed) => {
    const uniform = uniforms(seed);
    return Array.from({length: count}, () => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform()));
  };

  const density = (x, mean = 0, sd = 1) => Math.exp(-(((x - mean) / sd) ** 2) / 2) / (sd * Math.sqrt(2 * Math.PI));
  // The normal distribution function: its series near zero, a continued fraction beyond; 12 digits.
  const below = x => {
    if (Math.abs(x) > 3) {
      let fraction = 0;
      for (let k = 60; k > 0; k--) fraction = k / (Math.abs(x) + fraction);
      const tail = density(x) / (Math.abs(x) + fraction);
      return x > 0 ? 1 - tail : tail;
    }
    let term = x, sum = x;
    for (let k = 3; Math.abs(term) > 1e-16; k += 2) sum += term *= x * x / k;
    return 0.5 + sum * density(x);
  };
  // The number with that much probability below it, by bisection.
  const quantile = share => {
    let low = -9, high = 9;
    for (let k = 0; k < 50; k++) {
      const middle = (low + high) / 2;
      [low, high] = below(middle) < share ? [middle, high] : [low, middle];
    }
    return (low + high) / 2;
  };

  // The inverse of a small positive definite matrix, by elimination; null where there is none.
  const inverse = matrix => {
    const size = matrix.length, rows = matrix.map((row, i) => [...row, ...row.map((_, j) => Number(i == j))]);
    for (let i = 0; i < size; i++) {
      if (!(Math.abs(rows[i][i]) > 1e-13)) return null;
      rows[i] = rows[i].map(value => value / rows[i][i]);
      for (let k = 0; k < size; k++)
        if (k != i) rows[k] = rows[k].map((value, j) => value - rows[k][i] * rows[i][j]);
    }
    return rows.map(row => row.slice(size));
  };
  const dot = (a, b) => {
    let sum = 0;
    for (let i = 0; i < a.length; i++) sum += a[i] * b[i];
    return sum;
  };

  // Logistic regression by Newton's method: rows of features, labels 0 and 1. The inverse of the information is the
  // covariance of the weights; `separated` says that the classes are, so that no finite weights are best.
  const logistic = (rows, labels, steps = 25) => {
    const size = rows[0].length;
    const signed = weights => rows.map((row, n) => dot(row, weights) * (labels[n] ? 1 : -1));
    const likelihood = weights => {
      let sum = 0;
      for (let n = 0; n < rows.length; n++) {
        const r = dot(rows[n], weights) * (labels[n] ? 1 : -1);
        sum += Math.min(r, 0) - Math.log1p(Math.exp(-Math.abs(r)));
      }
      return sum;
    };
    const separated = () => signed(weights).every(r => r > 0);
    let weights = rows[0].map(() => 0), covariance = null;
    for (let step = 0; step < steps; step++) {
      const slope = weights.map(() => 0), information = weights.map(() => weights.map(() => 0));
      rows.forEach((row, n) => {
        const chance = 1 / (1 + Math.exp(-dot(row, weights))), spread = chance * (1 - chance);
        for (let i = 0; i < size; i++) {
          slope[i] += (labels[n] - chance) * row[i];
          for (let j = 0; j <= i; j++) information[i][j] += spread * row[i] * row[j];
        }
      });
      for (let i = 0; i < size; i++) for (let j = 0; j < i; j++) information[j][i] = information[i][j];
      const found = inverse(information);
      if (!found) break;
      covariance = found;
      const change = covariance.map(row => dot(row, slope));
      const from = weights, reached = likelihood(from);
      for (let share = 1; share > 1e-4; share /= 2) {  // a whole step may go too far
        weights = from.map((weight, i) => weight + share * change[i]);
        if (likelihood(weights) >= reached - 1e-9) break;
      }
      if (Math.max(...change.map(Math.abs)) < 1e-9) break;
    }
    return {weights, covariance, separated: separated()};
  };

  const range = (low, high, count) => Array.from({length: count}, (_, k) => low + (high - low) * k / (count - 1));
  const round = (value, digits = 2) => value.toFixed(digits).replace(/^-(0\.?0*)$/, "$1").replace("-", "\u2212");
  const count = log => Number((10 ** log).toPrecision(2));  // of a slider for sizes, which is logarithmic
  const clip = (value, low, high) => Math.min(Math.max(value, low), high);

  // ---- A panel: axes, marks and handles, in pixels of the screen, so that text keeps its size on a phone ----------

  const SVG = "http://www.w3.org/2000/svg";
  const MARGIN = {left: 44, right: 14, top: 26, bottom: 24};  // and a line more where the axis has a label
  const color = name => `var(--live-${name})`;
  const ticks = ([low, high], pixels) => {
    const rough = (high - low) / Math.max(pixels / 45, 2), power = 10 ** Math.floor(Math.log10(rough));
    const step = power * [1, 2, 5, 10].find(factor => factor * power >= rough);
    const all = [];
    for (let k = Math.ceil(low / step - 1e-9); k * step <= high + 1e-9 * step; k++) all.push(k * step);
    return {all, digits: Math.max(0, -Math.floor(Math.log10(step) + 1e-9))};
  };

  class Panel {
    constructor(host, spec) {
      Object.assign(this, {height: 290, xlabel: "", ylabel: "", spec}, spec);
      this.box = host.appendChild(document.createElement("div"));
      this.box.className = "live-panel";
      this.box.style.height = `${this.height}px`;
      this.canvas = this.box.appendChild(document.createElement("canvas"));
      this.svg = this.box.appendChild(document.createElementNS(SVG, "svg"));
      this.svg.setAttribute("role", "img");
      this.svg.setAttribute("aria-label", spec.alt);
      this.marks = this.svg.appendChild(document.createElementNS(SVG, "g"));
      this.handles = {};
    }

    // Measure the place, and begin anew.
    begin() {
      this.width = this.box.clientWidth;
      let [left, top] = [MARGIN.left, MARGIN.top], wide = this.width - left - MARGIN.right, high = this.height - top - MARGIN.bottom - (this.xlabel ? 18 : 0);
      if (this.square) {
        const side = Math.min(wide, high);
        left += (wide - side) / 2;
        wide = high = side;
      }
      Object.assign(this, {left, top, wide, high, out: [], over: []});
      const id = this.clip ??= `live-${Panel.count = (Panel.count ?? 0) + 1}`;
      this.out.push(`<clipPath id="${id}"><rect x="${left}" y="${top}" width="${wide}" height="${high}"/></clipPath>`);
      for (const [axis, pixels] of [["x", wide], ["y", high]]) {
        const {all, digits} = this[`${axis}ticks`] ?? ticks(this[axis], pixels);
        for (const value of all) {
          const label = this[`${axis}show`]?.(value) ?? round(value, digits);
          if (axis == "x") {
            this.out.push(`<path class="grid" d="M${this.at(value)} ${top}v${high}"/>`);
            this.text(this.at(value), top + high + 16, label, {anchor: "middle"});
          } else {
            this.out.push(`<path class="grid" d="M${left} ${this.up(value)}h${wide}"/>`);
            this.text(left - 6, this.up(value) + 4, label, {anchor: "end"});
          }
        }
      }
      this.over.push(`<path class="axis" d="M${left} ${top}v${high}h${wide}"/>`);
      this.text(left, top - 10, this.title, {weight: "bold"});
      this.text(left + wide / 2, top + high + 34, this.xlabel, {anchor: "middle"});
      if (this.ylabel) this.text(left + wide, top - 10, this.ylabel, {anchor: "end"});
    }

    end() {
      this.svg.setAttribute("width", this.width);
      this.svg.setAttribute("height", this.height);
      this.marks.innerHTML = this.out.join("") + this.over.join("");
    }

    // From the figure's numbers to pixels.
    at(x) { return this.left + (x - this.x[0]) / (this.x[1] - this.x[0]) * this.wide; }
    up(y) { return this.top + this.high - (y - this.y[0]) / (this.y[1] - this.y[0]) * this.high; }
    path(points) { return points.map(([x, y], k) => `${k ? "L" : "M"}${this.at(x).toFixed(1)} ${clip(this.up(y), -2e3, 4e3).toFixed(1)}`).join(""); }

    // Marks. Text and legends are placed in pixels, all others in the figure's numbers.
    text(x, y, words, {anchor = "start", weight = "normal", ink = "text"} = {}) {
      this.over.push(`<text x="${x}" y="${y}" text-anchor="${anchor}" font-weight="${weight}" fill="${color(ink)}">${words}</text>`);
    }
    inside(shape) { this.out.push(`<g clip-path="url(#${this.clip})">${shape}</g>`); }
    line(points, ink, {width = 2, dash = "none", opacity = 1} = {}) {
      this.inside(`<path d="${this.path(points)}" fill="none" stroke="${color(ink)}" stroke-width="${width}" stroke-dasharray="${dash}" opacity="${opacity}"/>`);
    }
    area(points, ink, opacity = 0.35) {
      this.inside(`<path d="${this.path(points)}Z" fill="${color(ink)}" opacity="${opacity}"/>`);
    }
    // Between two curves over the same x.
    band(xs, low, high, ink, opacity = 0.25) {
      this.area([...xs.map((x, k) => [x, high[k]]), ...xs.map((x, k) => [x, low[k]]).reverse()], ink, opacity);
    }
    dots(points, ink, {radius = 2.5, opacity = 0.8} = {}) {
      const one = r => `m-${r} 0a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 -${2 * r} 0`;
      const d = points.map(([x, y, r = radius]) => `M${this.at(x).toFixed(1)} ${this.up(y).toFixed(1)}${one(r)}`).join("");
      this.inside(`<path d="${d}" fill="${color(ink)}" opacity="${opacity}"/>`);
    }
    arrow(x, y, dx, ink) {
      const [from, to, at] = [this.at(x), this.at(x + dx), this.up(y)], tip = clip(to - from, -7, 7);
      this.inside(`<path d="M${from} ${at}H${to}m${-tip} -4l${tip} 4l${-tip} 4" fill="none" stroke="${color(ink)}" stroke-width="2"/>`);
    }
    legend(rows, side = "left") {
      const x = side == "left" ? this.left + 10 : this.left + this.wide - 10 - Math.max(...rows.map(([, label]) => 7 * label.length)) - 22;
      rows.forEach(([ink, label, dash = "none"], k) => {
        const y = this.top + 14 + 18 * k;
        this.over.push(`<path d="M${x} ${y - 4}h16" stroke="${color(ink)}" stroke-width="4" stroke-dasharray="${dash}"/>`);
        this.text(x + 22, y, label);
      });
    }
    // A picture of shades: 0 is the paper, 1 the ink, for the middle of each of `count` by `count` squares.
    shades(shade, count) {
      const style = getComputedStyle(this.box);
      const parse = name => style.getPropertyValue(`--live-${name}`).match(/\w\w/g).map(two => parseInt(two, 16));
      const colors = ["low", "middle", "high"].map(parse);
      Object.assign(this.canvas, {width: count, height: count});
      Object.assign(this.canvas.style, {left: `${this.left}px`, top: `${this.top}px`, width: `${this.wide}px`, height: `${this.high}px`});
      const context = this.canvas.getContext("2d"), image = context.createImageData(count, count);
      for (let row = 0, k = 0; row < count; row++)
        for (let column = 0; column < count; column++) {
          const x = this.x[0] + (this.x[1] - this.x[0]) * (column + 0.5) / count;
          const y = this.y[1] - (this.y[1] - this.y[0]) * (row + 0.5) / count;
          const step = 2 * clip(shade(x, y), 0, 0.9999), first = Math.floor(step);
          for (let c = 0; c < 3; c++) image.data[k++] = colors[first][c] + (step - first) * (colors[first + 1][c] - colors[first][c]);
          image.data[k++] = 255;
        }
      context.putImageData(image, 0, 0);
    }

    // A disc to drag: it stays the same node, so that a finger keeps it while all else is drawn anew.
    handle(name, x, y, ink, drag) {
      if (!this.handles[name]) {
        const made = this.handles[name] = this.svg.appendChild(document.createElementNS(SVG, "circle"));
        // A finger on it does not scroll the page.
        made.addEventListener("touchstart", event => { if (!this.locked) event.preventDefault(); }, {passive: false});
      }
      const disc = this.handles[name];
      const place = [clip(this.at(x), this.left, this.left + this.wide), clip(this.up(y), this.top, this.top + this.high)];
      for (const [key, value] of Object.entries({cx: place[0], cy: place[1], r: 9, class: "live-handle", fill: color(ink), "data-handle": name}))
        disc.setAttribute(key, value);
      disc.onpointerdown = event => {
        if (this.locked) return;
        disc.setPointerCapture(event.pointerId);
        event.preventDefault();
      };
      disc.onpointermove = event => {
        if (!disc.hasPointerCapture(event.pointerId)) return;
        const corner = this.svg.getBoundingClientRect();
        drag(
          this.x[0] + (this.x[1] - this.x[0]) * (event.clientX - corner.left - this.left) / this.wide,
          this.y[0] + (this.y[1] - this.y[0]) * (this.top + this.high - event.clientY + corner.top) / this.high,
        );
      };
    }
  }

  // ---- The figure: question, panels, what is said, sliders --------------------------------------------------------

  const make = (parent, tag, name, text = "") => {
    const node = parent.appendChild(document.createElement(tag));
    node.className = name;
    node.textContent = text;
    return node;
  };

  const add = ({panels, inputs, buttons = {}, draw}) => {
    const box = document.currentScript.previousElementSibling, list = box.querySelector("ul");
    const rest = make(box, "div", "live-answer"), stage = make(box, "div", "live-stage");
    while (list.nextElementSibling != rest) rest.append(list.nextElementSibling);
    rest.hidden = true;

    const row = make(stage, "div", "live-panels"), drawn = {};
    for (const [name, spec] of Object.entries(panels)) drawn[name] = new Panel(row, spec);
    const says = make(stage, "output", "live-says"), bar = make(stage, "div", "live-inputs");
    const sliders = {}, at = {}, controls = [];
    for (const [name, {label, ...limits}] of Object.entries(inputs)) {
      const words = make(bar, "label", "");
      make(words, "span", "", label);
      const shown = make(words, "b", ""), slider = sliders[name] = make(words, "input", "");
      Object.assign(slider, {type: "range", min: limits.min, max: limits.max, step: limits.step, value: limits.value, name, shown});
      slider.setAttribute("aria-label", label);
      slider.oninput = () => update();
      controls.push(slider);
    }
    for (const [name, action] of Object.entries(buttons)) {
      const button = make(bar, "button", "", name);
      button.type = "button";
      button.onclick = () => { action({at, set, again: update}); update(); };
      controls.push(button);
    }

    const set = values => {
      for (const [name, value] of Object.entries(values)) sliders[name].value = value;
      update();
    };
    let waiting = false, locked = true;
    const paint = () => {
      waiting = false;
      if (!box.clientWidth) return;
      for (const [name, slider] of Object.entries(sliders)) {
        at[name] = Number(slider.value);
        slider.shown.textContent = inputs[name].show?.(at[name]) ?? round(at[name], Number.isInteger(inputs[name].step) ? 0 : 2);
        slider.setAttribute("aria-valuetext", slider.shown.textContent);
      }
      for (const panel of Object.values(drawn)) { panel.locked = locked; panel.begin(); }
      const began = performance.now(), result = draw({at, panels: drawn, set, locked});
      for (const panel of Object.values(drawn)) panel.end();
      Object.assign(box, {values: result.values, milliseconds: performance.now() - began});
      says.textContent = locked ? "Choose an answer above. Then drag the discs, or move the sliders." : result.says;
    };
    const update = () => { if (!waiting) { waiting = true; requestAnimationFrame(paint); } };

    const choices = [...list.children], answer = Number(box.dataset.answer);
    list.classList.add("live-choices");
    choices.forEach((choice, k) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...choice.childNodes);
      choice.append(button);
      button.onclick = () => {
        if (!locked) return;
        locked = false;
        choices.forEach((other, j) => other.classList.add(j + 1 == answer ? "right" : j == k ? "wrong" : "other"));
        choice.classList.add("chosen");
        button.setAttribute("aria-pressed", "true");
        rest.hidden = false;
        const first = rest.querySelector("p") ?? rest;
        const verdict = document.createElement("strong");
        verdict.textContent = k + 1 == answer ? "So it is. " : `It is the ${["first", "second", "third", "fourth"][answer - 1]}. `;
        first.prepend(verdict);
        for (const control of controls) control.disabled = false;
        box.classList.remove("locked");
        update();
      };
    });
    for (const control of controls) control.disabled = true;
    box.classList.add("locked");
    paint();
    new ResizeObserver(update).observe(row);
    new MutationObserver(update).observe(document.documentElement, {attributeFilter: ["data-theme"]});
  };

  return {add, uniforms, normals, density, below, quantile, inverse, dot, logistic, range, round, count, clip};
})();
