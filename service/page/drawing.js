// The drawing area. Strokes are lists of points in a square of side 1, so they are drawn anew at any size and colour.

const BRUSH = 0.075; // of the side: as thick as the strokes of the training set once the character fills the picture
const SENT = 280; // pixels a side of the picture that is sent
const STEP = 1 / 24;
const SMALL_STEP = 1 / 120;
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

/** Lets a person draw on a canvas by pointer, touch and keyboard; `changed` is called after every change. */
export class Drawing {
  constructor(canvas, changed) {
    this.canvas = canvas;
    this.changed = changed;
    this.strokes = [];
    this.backdrop = null; // a picture from elsewhere, shown until something is drawn
    this.open = null; // the stroke that a pointer is drawing
    this.pen = { x: 0.5, y: 0.5, down: false };
    this.listen();
    new ResizeObserver(() => this.show()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.show());
  }

  get empty() {
    return this.strokes.length === 0;
  }

  clear() {
    this.strokes = [];
    this.backdrop = null;
    this.open = null;
    this.pen = { x: 0.5, y: 0.5, down: false };
    this.update();
  }

  undo() {
    this.strokes.pop();
    this.backdrop = null;
    this.open = null;
    this.pen.down = false;
    this.update();
  }

  /** Show a picture that is not drawn; null where the browser cannot show it. */
  display(bitmap) {
    this.strokes = [];
    this.backdrop = bitmap;
    this.show();
  }

  /** The drawing as a PNG file: light on dark as the training set, whatever its colours on the page. */
  async png() {
    const copy = document.createElement("canvas");
    copy.width = copy.height = SENT;
    const context = copy.getContext("2d");
    context.fillStyle = "#000";
    context.fillRect(0, 0, SENT, SENT);
    this.trace(context, SENT, "#fff");
    return new Promise((resolve) => copy.toBlob(resolve, "image/png"));
  }

  show() {
    const side = Math.max(1, Math.round(this.canvas.clientWidth * devicePixelRatio));
    this.canvas.width = this.canvas.height = side;
    const context = this.canvas.getContext("2d");
    if (this.backdrop) {
      const scale = Math.min(side / this.backdrop.width, side / this.backdrop.height);
      const [width, height] = [this.backdrop.width * scale, this.backdrop.height * scale];
      context.imageSmoothingEnabled = scale < 1;
      context.drawImage(this.backdrop, (side - width) / 2, (side - height) / 2, width, height);
    }
    const style = getComputedStyle(this.canvas);
    this.trace(context, side, style.color);
    if (document.activeElement === this.canvas && this.canvas.matches(":focus-visible")) this.crosshair(context, side, style);
  }

  trace(context, side, colour) {
    context.strokeStyle = context.fillStyle = colour;
    context.lineWidth = BRUSH * side;
    context.lineCap = context.lineJoin = "round";
    for (const [[x, y], ...rest] of this.strokes) {
      context.beginPath();
      context.moveTo(x * side, y * side);
      for (const [a, b] of rest.length ? rest : [[x + 1e-4, y]]) context.lineTo(a * side, b * side);
      context.stroke();
    }
  }

  crosshair(context, side, style) {
    const [x, y, arm] = [this.pen.x * side, this.pen.y * side, 0.04 * side];
    context.strokeStyle = style.getPropertyValue("--accent");
    context.lineWidth = Math.max(2, side / 150);
    context.beginPath();
    context.moveTo(x - arm, y);
    context.lineTo(x + arm, y);
    context.moveTo(x, y - arm);
    context.lineTo(x, y + arm);
    if (this.pen.down) context.arc(x, y, arm, 0, 2 * Math.PI);
    context.stroke();
  }

  update() {
    this.show();
    this.changed();
  }

  begin(x, y) {
    this.backdrop = null;
    const stroke = [[x, y]];
    this.strokes.push(stroke);
    return stroke;
  }

  listen() {
    const { canvas } = this;
    const place = (event) => {
      const box = canvas.getBoundingClientRect();
      return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
    };
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button !== 0 || this.open) return;
      canvas.setPointerCapture(event.pointerId);
      this.pen.down = false;
      this.open = { id: event.pointerId, points: this.begin(...place(event)) };
      this.update();
    });
    canvas.addEventListener("pointermove", (event) => {
      if (this.open?.id !== event.pointerId) return;
      const moves = event.getCoalescedEvents?.() ?? [];
      for (const move of moves.length ? moves : [event]) this.open.points.push(place(move));
      this.update();
    });
    for (const end of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(end, (event) => {
        if (this.open?.id === event.pointerId) this.open = null;
      });
    }
    canvas.addEventListener("focus", () => this.show());
    canvas.addEventListener("blur", () => {
      this.pen.down = false;
      this.show();
    });
    canvas.addEventListener("keydown", (event) => {
      if (event.altKey || event.metaKey) return;
      if (this.key(event)) event.preventDefault();
    });
  }

  /** Do what a key says; whether it says anything. */
  key(event) {
    const { pen } = this;
    if (event.key in ARROWS) {
      const [dx, dy] = ARROWS[event.key];
      const step = event.shiftKey ? SMALL_STEP : STEP;
      pen.x = Math.min(1, Math.max(0, pen.x + dx * step));
      pen.y = Math.min(1, Math.max(0, pen.y + dy * step));
      if (pen.down) {
        this.strokes.at(-1).push([pen.x, pen.y]);
        this.update();
      } else this.show();
    } else if (event.key === " ") {
      pen.down = !pen.down;
      if (pen.down) {
        this.begin(pen.x, pen.y);
        this.update();
      } else this.show();
    } else if (event.key === "Backspace" || (event.key === "z" && event.ctrlKey)) this.undo();
    else if (event.key === "Escape") this.clear();
    else return false;
    return true;
  }
}
