// What the tests of the site ask of a page, from inside it. Each check returns a list of complaints.
window.check = {
  async settle() {
    document.head.insertAdjacentHTML("beforeend", "<style>* { transition: none !important; }</style>");
    await window.MathJax?.startup?.promise;
    for (const image of document.images) image.loading = "eager";
    await Promise.allSettled([...document.images].map(image => image.decode()));
    await document.fonts.ready;
  },

  open() {
    for (const details of document.querySelectorAll("details")) details.open = true;
    for (const button of document.querySelectorAll(".toggle-button[aria-expanded='false']")) button.click();
  },

  content() {
    const found = [], main = document.querySelector("main") ?? document.body;
    for (const math of main.querySelectorAll(".math"))
      if (!math.querySelector("mjx-container") || math.querySelector("mjx-merror"))
        found.push(`math not rendered: ${math.textContent}`);
    for (const image of main.querySelectorAll("img")) {
      if (!image.naturalWidth) found.push(`image not loaded: ${image.src}`);
      if (!image.alt || image.src.includes(image.alt)) found.push(`image without alt text: ${image.src}`);
    }
    const text = main.cloneNode(true);
    text.querySelectorAll("pre, code, script, .math").forEach(node => node.remove());
    const raw = text.textContent.match(/:::|```|\{[\w:-]+\}`|\$\S/);
    if (raw) found.push(`markup shown to the reader: ${raw[0]}`);
    return found;
  },

  headings() {
    const levels = [...document.querySelectorAll("h1, h2, h3, h4, h5, h6")]
      .filter(heading => heading.checkVisibility()).map(heading => Number(heading.tagName[1]));
    const jump = levels.findIndex((level, i) => level > (levels[i - 1] ?? 0) + 1);
    if (levels.filter(level => level == 1).length != 1 || jump >= 0)
      return [`headings out of order: ${levels.join(" ")}`];
    return [];
  },

  // On a phone: what is too wide scrolls, and what is touched is as large as WCAG 2.2 AA asks.
  phone() {
    const found = [], main = document.querySelector("main") ?? document.body;
    for (const node of main.querySelectorAll("pre, .math, mjx-container, table, figure"))
      if (node.scrollWidth > node.clientWidth + 1 && /hidden|clip/.test(getComputedStyle(node).overflowX))
        found.push(`cut on a phone: ${node.textContent.slice(0, 50)}`);
    for (const node of document.querySelectorAll("button, input, summary")) {
      const {width, height} = node.getBoundingClientRect();
      if (width && height && Math.min(width, height) < 24 && node.checkVisibility({visibilityProperty: true, opacityProperty: true}))
        found.push(`small to touch, ${Math.round(width)} by ${Math.round(height)}: ${node.outerHTML.slice(0, 80)}`);
    }
    return found;
  },

  // WCAG 2 AA: luminances, with 0.05 of stray light, differ by 4.5, or by 3 where letters are large.
  contrast() {
    const pixel = new OffscreenCanvas(1, 1).getContext("2d", {willReadFrequently: true}), colors = {}, found = new Set();
    const rgba = color => {
      if (!colors[color]) {
        pixel.clearRect(0, 0, 1, 1);
        pixel.fillStyle = color;
        pixel.fillRect(0, 0, 1, 1);
        const [r, g, b, alpha] = pixel.getImageData(0, 0, 1, 1).data;
        colors[color] = [r, g, b, alpha / 255];
      }
      return colors[color];
    };
    const over = (top, below, alpha) => below.map((value, i) => alpha * top[i] + (1 - alpha) * value);
    const surfaces = new Map([[null, {ground: [255, 255, 255], opacity: 1}]]);
    const surface = node => {
      if (!surfaces.has(node)) {
        const behind = surface(node.parentElement), style = getComputedStyle(node), color = rgba(style.backgroundColor);
        const opacity = behind.opacity * style.opacity;
        surfaces.set(node, {ground: over(color, behind.ground, color[3] * opacity), opacity});
      }
      return surfaces.get(node);
    };
    const luminance = color => color.map(value => value / 255)
      .map(value => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4)
      .reduce((sum, value, i) => sum + [0.2126, 0.7152, 0.0722][i] * value, 0);
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) {
      const node = texts.currentNode.parentElement;
      if (!texts.currentNode.data.trim() || node.closest("mjx-container, script, style, noscript")) continue;
      if (!node.checkVisibility({visibilityProperty: true})) continue;
      const {ground, opacity} = surface(node), style = getComputedStyle(node), color = rgba(style.color);
      const seen = over(color, ground, color[3] * opacity), size = parseFloat(style.fontSize);
      const [low, high] = [luminance(seen), luminance(ground)].sort((a, b) => a - b);
      const ratio = (high + 0.05) / (low + 0.05), large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
      if (ratio < (large ? 3 : 4.5)) {
        const [ink, paper] = [seen, ground].map(color => color.map(Math.round).join(","));
        found.add(`contrast ${ratio.toFixed(2)}: <${node.tagName} class="${node.className}">, ${ink} on ${paper}`);
      }
    }
    return [...found];
  },

  print() {
    const found = [], shows = node => node.checkVisibility({visibilityProperty: true, opacityProperty: true});
    for (const node of document.querySelectorAll("nav, header, footer, dialog, button, .bd-sidebar"))
      if (shows(node) && !node.closest("#jb-print-toc")) found.push(`printed: <${node.tagName} class="${node.className}">`);
    for (const node of document.querySelectorAll(".toggle-hidden p"))
      if (!shows(node)) found.push(`solution closed on paper: ${node.textContent.slice(0, 50)}`);
    for (const node of document.querySelectorAll("main figure, main img"))
      if (getComputedStyle(node).breakInside != "avoid") found.push(`figure split between pages: ${node.id}`);
    for (const node of document.querySelectorAll("main pre, main .math, main mjx-container"))
      if (shows(node) && node.scrollWidth > node.clientWidth + 1) found.push(`cut on paper: ${node.textContent.slice(0, 50)}`);
    const edge = document.querySelector("article.bd-article")?.getBoundingClientRect().right;
    for (const node of document.querySelectorAll("main table"))
      if (node.getBoundingClientRect().right > edge + 1) found.push(`wider than paper: ${node.textContent.slice(0, 50)}`);
    for (const node of document.querySelectorAll(".sd-tab-content"))
      if (!shows(node)) found.push(`tab closed on paper: ${node.textContent.slice(0, 50)}`);
    return found;
  },

  // The engine takes minutes for the thousands of pieces of formulas and of highlighted code: leave their text.
  async accessibility() {
    document.querySelectorAll("mjx-container").forEach(node => node.replaceWith("x"));
    document.querySelectorAll("pre, dt.sig").forEach(node => node.replaceChildren(node.textContent));
    const off = ["color-contrast", "empty-table-header", "region"];  // above; corners of tables; the theme's logo
    const rules = Object.fromEntries(off.map(name => [name, {enabled: false}]));
    const {violations} = await axe.run({exclude: [".citation-list"]}, {rules, resultTypes: ["violations"], preload: false});
    return violations.map(({id, help, nodes}) => `${id}: ${help}: ${nodes[0].html.slice(0, 150)}`);
  },

  // Where the keyboard is, and what a reader who looks for it would miss.
  focus() {
    const node = document.activeElement, {left, top, right, bottom} = node.getBoundingClientRect(), found = [];
    const ring = node.type == "radio" ? node.labels[0] : node;  // a tab is an unseen button and its label
    const style = getComputedStyle(ring), name = `<${node.tagName} class="${node.className}"> ${node.textContent.trim().slice(0, 30)}`;
    if (node == document.body) return null;
    if (style.outlineStyle == "none" || parseFloat(style.outlineWidth) < 2) found.push(`focus not visible: ${name}`);
    if (right <= 0 || bottom <= 0 || left >= innerWidth || top >= innerHeight || right - left < 1)
      found.push(`focus off the screen: ${name}`);
    const last = window.check.last;
    if (last?.isConnected && !(last.compareDocumentPosition(node) & Node.DOCUMENT_POSITION_FOLLOWING))
      found.push(`focus jumps back: ${name}`);
    window.check.last = node;
    return found;
  },
};
