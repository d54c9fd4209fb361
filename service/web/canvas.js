// A scatter plot that can be zoomed, moved and walked through: pointer, wheel, two fingers, keys.

const PICK_PIXELS = 14;
const MARGIN_PIXELS = 28;
const MOST_ZOOM = 400;

export class Chart {
  /** `on.point(i)` when a point is under the pointer or chosen (-1 for none), `on.open(i)` when it is opened. */
  constructor(canvas, on) {
    this.canvas = canvas;
    this.on = on;
    this.points = { x: [], y: [], group: [] };
    this.hidden = new Set();
    this.hits = new Map();
    this.at = -1;
    this.labels = [];
    this.fingers = new Map();
    this.zoom = 1;
    this.center = [0.5, 0.5];
    new ResizeObserver(() => this.draw()).observe(canvas);
    this.listen();
  }

  /** Show other points: `x` and `y` within 0 to 1, `group` the index of each point's colour. */
  show(points, labels) {
    this.points = points;
    this.labels = labels;
    this.hidden.clear();
    this.point(-1);
    this.fit();
  }

  fit() {
    this.zoom = 1;
    this.center = [0.5, 0.5];
    this.draw();
  }

  /** Zoom by a factor, the place under `(px, py)` staying where it is. */
  zoomBy(factor, px = this.canvas.clientWidth / 2, py = this.canvas.clientHeight / 2) {
    const [x, y] = this.world(px, py);
    this.zoom = Math.min(MOST_ZOOM, Math.max(0.5, this.zoom * factor));
    const [nowX, nowY] = this.world(px, py);
    this.center = [this.center[0] + x - nowX, this.center[1] + y - nowY];
    this.draw();
  }

  scale() {
    const { clientWidth: w, clientHeight: h } = this.canvas;
    return [this.zoom * Math.max(1, w - 2 * MARGIN_PIXELS), this.zoom * Math.max(1, h - 2 * MARGIN_PIXELS)];
  }

  screen(i) {
    const [sx, sy] = this.scale();
    const { clientWidth: w, clientHeight: h } = this.canvas;
    return [w / 2 + (this.points.x[i] - this.center[0]) * sx, h / 2 + (this.points.y[i] - this.center[1]) * sy];
  }

  world(px, py) {
    const [sx, sy] = this.scale();
    const { clientWidth: w, clientHeight: h } = this.canvas;
    return [this.center[0] + (px - w / 2) / sx, this.center[1] + (py - h / 2) / sy];
  }

  draw() {
    cancelAnimationFrame(this.frame);
    this.frame = requestAnimationFrame(() => this.paint());
  }

  paint() {
    const { canvas } = this;
    const ratio = devicePixelRatio || 1;
    const [w, h] = [canvas.clientWidth, canvas.clientHeight];
    if (!w) return;
    canvas.width = Math.round(w * ratio);
    canvas.height = Math.round(h * ratio);
    const pen = canvas.getContext("2d");
    pen.scale(ratio, ratio);
    const ink = getComputedStyle(canvas);
    const colors = this.colors();
    const radius = Math.min(7, 2.6 + 0.9 * Math.log2(1 + this.zoom));
    for (let i = 0; i < this.points.x.length; i++) {
      if (this.hidden.has(this.points.group[i]) || this.hits.has(i)) continue;
      const [x, y] = this.screen(i);
      if (x < -9 || y < -9 || x > w + 9 || y > h + 9) continue;
      pen.globalAlpha = this.hits.size ? 0.28 : 0.72;
      pen.fillStyle = colors[this.points.group[i] % colors.length];
      circle(pen, x, y, radius);
      pen.fill();
    }
    pen.globalAlpha = 1;
    this.paintLabels(pen, ink);
    for (const [i, rank] of this.hits) this.paintHit(pen, ink, colors, i, rank, radius);
    if (this.at >= 0) {
      const [x, y] = this.screen(this.at);
      pen.lineWidth = 2;
      pen.strokeStyle = ink.color;
      circle(pen, x, y, radius + 4);
      pen.stroke();
    }
  }

  paintLabels(pen, ink) {
    pen.font = `600 12px ${ink.fontFamily}`;
    pen.textAlign = "center";
    pen.lineWidth = 4;
    pen.lineJoin = "round";
    const taken = [];
    const width = this.canvas.clientWidth;
    for (const { text, point, group } of this.labels) {
      if (this.hidden.has(group)) continue;
      const half = pen.measureText(text).width / 2 + 4;
      const [at, y] = this.screen(point);
      if (at < 0 || at > width) continue;
      const x = Math.max(half, Math.min(width - half, at));
      if (taken.some(([ox, oy, other]) => Math.abs(ox - x) < half + other && Math.abs(oy - y) < 16)) continue;
      taken.push([x, y, half]);
      pen.strokeStyle = ink.backgroundColor;
      pen.strokeText(text, x, y - 8);
      pen.fillStyle = ink.color;
      pen.fillText(text, x, y - 8);
    }
  }

  paintHit(pen, ink, colors, i, rank, radius) {
    if (this.hidden.has(this.points.group[i])) return;
    const [x, y] = this.screen(i);
    pen.fillStyle = colors[this.points.group[i] % colors.length];
    circle(pen, x, y, radius + 6);
    pen.fill();
    pen.lineWidth = 2;
    pen.strokeStyle = ink.backgroundColor;
    pen.stroke();
    pen.fillStyle = ink.backgroundColor;
    pen.font = `700 11px ${ink.fontFamily}`;
    pen.textAlign = "center";
    pen.fillText(String(rank), x, y + 4);
  }

  /** The palette, as the style sheet has it in the theme that is on. */
  colors() {
    return [...this.canvas.parentElement.querySelectorAll(".swatches i")].map((swatch) => getComputedStyle(swatch).color);
  }

  nearest(px, py, within = PICK_PIXELS) {
    let best = -1;
    let least = within ** 2;
    for (let i = 0; i < this.points.x.length; i++) {
      if (this.hidden.has(this.points.group[i])) continue;
      const [x, y] = this.screen(i);
      const distance = (x - px) ** 2 + (y - py) ** 2;
      if (distance <= least) [best, least] = [i, distance];
    }
    return best;
  }

  point(i) {
    if (i === this.at) return;
    this.at = i;
    this.canvas.style.cursor = i >= 0 ? "pointer" : "grab";
    this.on.point(i);
    this.draw();
  }

  /** Go to the nearest point in a direction, and bring it into sight. */
  step(dx, dy) {
    if (!this.points.x.length) return;
    if (this.at < 0) return this.point(this.nearest(this.canvas.clientWidth / 2, this.canvas.clientHeight / 2, Infinity));
    const [fromX, fromY] = this.screen(this.at);
    let best = -1;
    let least = Infinity;
    for (let i = 0; i < this.points.x.length; i++) {
      if (i === this.at || this.hidden.has(this.points.group[i])) continue;
      const [x, y] = this.screen(i);
      const ahead = (x - fromX) * dx + (y - fromY) * dy;
      const aside = Math.abs((x - fromX) * dy) + Math.abs((y - fromY) * dx);
      if (ahead > 0.5 && ahead + 2 * aside < least) [best, least] = [i, ahead + 2 * aside];
    }
    if (best < 0) return;
    const [x, y] = this.screen(best);
    const { clientWidth: w, clientHeight: h } = this.canvas;
    if (x < 20 || y < 20 || x > w - 20 || y > h - 20) this.center = [this.points.x[best], this.points.y[best]];
    this.point(best);
  }

  listen() {
    const { canvas } = this;
    const place = (event) => [event.offsetX, event.offsetY];
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.zoomBy(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.002)), ...place(event));
    }, { passive: false });
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      this.fingers.set(event.pointerId, place(event));
      this.moved = this.fingers.size > 1;
      this.from = place(event);
    });
    canvas.addEventListener("pointermove", (event) => this.drag(event, place(event)));
    canvas.addEventListener("pointerup", (event) => {
      this.fingers.delete(event.pointerId);
      if (this.moved || this.fingers.size) return;
      const found = this.nearest(...place(event), event.pointerType === "touch" ? 24 : PICK_PIXELS);
      this.point(found);
      if (found >= 0) this.on.open(found);
    });
    canvas.addEventListener("pointercancel", (event) => this.fingers.delete(event.pointerId));
    canvas.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && !this.fingers.size && this.point(-1));
    canvas.addEventListener("dblclick", (event) => this.zoomBy(2, ...place(event)));
    canvas.addEventListener("keydown", (event) => this.key(event));
  }

  drag(event, [x, y]) {
    const before = this.fingers.get(event.pointerId);
    if (!before) return this.point(this.nearest(x, y));
    if (Math.hypot(x - this.from[0], y - this.from[1]) > 4) this.moved = true;
    const others = [...this.fingers].filter(([id]) => id !== event.pointerId).map(([, at]) => at);
    this.fingers.set(event.pointerId, [x, y]);
    if (others.length) {
      const [[ox, oy]] = others;
      const factor = Math.hypot(x - ox, y - oy) / Math.max(1, Math.hypot(before[0] - ox, before[1] - oy));
      this.zoomBy(factor, (x + ox) / 2, (y + oy) / 2);
    } else if (this.moved) {
      const [sx, sy] = this.scale();
      this.center = [this.center[0] - (x - before[0]) / sx, this.center[1] - (y - before[1]) / sy];
      this.draw();
    }
  }

  key(event) {
    const around = this.at >= 0 ? this.screen(this.at) : [];
    const actions = {
      ArrowLeft: () => this.step(-1, 0),
      ArrowRight: () => this.step(1, 0),
      ArrowUp: () => this.step(0, -1),
      ArrowDown: () => this.step(0, 1),
      "+": () => this.zoomBy(1.5, ...around),
      "=": () => this.zoomBy(1.5, ...around),
      "-": () => this.zoomBy(1 / 1.5, ...around),
      0: () => this.fit(),
      Enter: () => this.at >= 0 && this.on.open(this.at),
    };
    if (event.ctrlKey || event.metaKey || event.altKey || !(event.key in actions)) return;
    event.preventDefault();
    event.stopPropagation();
    actions[event.key]();
  }
}

function circle(pen, x, y, radius) {
  pen.beginPath();
  pen.arc(x, y, radius, 0, 2 * Math.PI);
}
