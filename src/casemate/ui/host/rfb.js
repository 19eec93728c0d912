// A viewer of RFB (RFC 6143) on a canvas: raw encoding, keyboard and pointer, nothing else.
// The other end is a guest's: every size is bounded before it is believed.

import { keysym } from "/ui/keysym.js";

const VERSION = "RFB 003.008\n";
const NONE = 1;
const RAW = 0;
const DESKTOP_SIZE = -223;
const PIXELS_MOST = 1 << 24;
const TEXT_MOST = 1 << 20;
const QUEUED_MOST = 1 << 27;
const WHEEL = { up: 8, down: 16 };

// Bytes as they come, taken in the portions that the protocol asks for.
class Bytes {
  constructor() { this.parts = []; this.size = 0; this.wanted = 0; this.wake = null; this.ended = false; }
  add(buffer) {
    this.parts.push(new Uint8Array(buffer));
    this.size += buffer.byteLength;
    if (this.wake && this.size >= this.wanted) this.wake();
  }
  end() { this.ended = true; if (this.wake) this.wake(); }
  async take(count) {
    while (this.size < count) {
      if (this.ended) throw new Error("The console was closed.");
      this.wanted = count;
      await new Promise((resolve) => { this.wake = resolve; });
      this.wake = null;
    }
    const out = new Uint8Array(count);
    for (let at = 0; at < count;) {
      const head = this.parts[0];
      const part = head.subarray(0, count - at);
      out.set(part, at);
      at += part.length;
      if (part.length === head.length) this.parts.shift();
      else this.parts[0] = head.subarray(part.length);
    }
    this.size -= count;
    return new DataView(out.buffer);
  }
}

export class Viewer {
  // `canvas` shows the guest; `say` is told what happens, and `closed` that it is over.
  constructor(canvas, url, { say, closed }) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d", { alpha: false });
    this.say = say;
    this.buttons = 0;
    this.bytes = new Bytes();
    this.ready = false;
    this.socket = new WebSocket(url, ["binary"]);
    this.socket.binaryType = "arraybuffer";
    this.socket.onmessage = ({ data }) => {
      if (!(data instanceof ArrayBuffer) || this.bytes.size > QUEUED_MOST) this.close();
      else this.bytes.add(data);
    };
    this.socket.onclose = () => this.bytes.end();
    this.listeners = new AbortController();
    this.run().catch((error) => say(error.message)).finally(() => { this.close(); closed(); });
  }

  close() {
    this.listeners.abort();
    this.socket.close();
    this.bytes.end();
  }

  send(...bytes) {
    if (this.ready && this.socket.readyState === WebSocket.OPEN) this.socket.send(new Uint8Array(bytes));
  }

  async run() {
    const text = (view) => new TextDecoder().decode(view);
    if (text(await this.bytes.take(VERSION.length)) !== VERSION) throw new Error("This is no screen.");
    this.socket.send(new TextEncoder().encode(VERSION));
    const kinds = (await this.bytes.take(1)).getUint8(0);
    const offered = new Uint8Array((await this.bytes.take(kinds)).buffer);
    if (!offered.includes(NONE)) throw new Error("The screen asks for a password.");
    this.socket.send(new Uint8Array([NONE]));
    if ((await this.bytes.take(4)).getUint32(0)) throw new Error("The screen was refused.");
    this.socket.send(new Uint8Array([1]));
    const init = await this.bytes.take(24);
    const name = init.getUint32(20);
    if (name > TEXT_MOST) throw new Error("The screen has too long a name.");
    await this.bytes.take(name);
    this.resize(init.getUint16(0), init.getUint16(2));
    this.ready = true;
    // 32 bits a pixel, little-endian, red in the first byte: as a canvas has them.
    this.send(0, 0, 0, 0, 32, 24, 0, 1, 0, 255, 0, 255, 0, 255, 0, 8, 16, 0, 0, 0);
    // Raw, and changes of size (-223).
    this.send(2, 0, 0, 2, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0x21);
    this.listen();
    this.ask(0);
    this.say("");
    for (;;) await this.message();
  }

  async message() {
    const kind = (await this.bytes.take(1)).getUint8(0);
    if (kind === 0) {
      const count = (await this.bytes.take(3)).getUint16(1);
      for (let n = 0; n < count; n += 1) await this.rectangle();
      this.ask(1);
    } else if (kind === 1) {
      const colours = (await this.bytes.take(5)).getUint16(3);
      await this.bytes.take(6 * colours);
    } else if (kind === 3) {
      const size = (await this.bytes.take(7)).getUint32(3);
      if (size > TEXT_MOST) throw new Error("The guest sends too long a text.");
      await this.bytes.take(size);
    } else if (kind !== 2) throw new Error("The screen speaks something else.");
  }

  async rectangle() {
    const head = await this.bytes.take(12);
    const [x, y, width, height] = [0, 2, 4, 6].map((at) => head.getUint16(at));
    const encoding = head.getInt32(8);
    if (encoding === DESKTOP_SIZE) return this.resize(width, height);
    if (encoding !== RAW || x + width > this.canvas.width || y + height > this.canvas.height) {
      throw new Error("The screen sends what was not asked for.");
    }
    if (!width || !height) return undefined;
    const view = await this.bytes.take(width * height * 4);
    const pixels = new Uint8ClampedArray(view.buffer);
    for (let at = 3; at < pixels.length; at += 4) pixels[at] = 255;
    this.context.putImageData(new ImageData(pixels, width, height), x, y);
    this.canvas.dataset.drawn = "yes";
    return undefined;
  }

  resize(width, height) {
    if (!width || !height || width * height > PIXELS_MOST) throw new Error("The screen is too large.");
    this.canvas.width = width;
    this.canvas.height = height;
  }

  ask(incremental) {
    const { width, height } = this.canvas;
    this.send(3, incremental, 0, 0, 0, 0, width >> 8, width & 255, height >> 8, height & 255);
  }

  key(symbol, down) {
    this.send(4, down ? 1 : 0, 0, 0, symbol >>> 24, (symbol >> 16) & 255, (symbol >> 8) & 255, symbol & 255);
  }

  // Keys together: all down, then all up.
  together(...symbols) {
    symbols.forEach((one) => this.key(one, true));
    symbols.reverse().forEach((one) => this.key(one, false));
  }

  pointer(event, buttons) {
    const box = this.canvas.getBoundingClientRect();
    const part = (at, from, size, count) =>
      Math.max(0, Math.min(count - 1, Math.floor((at - from) / size * count)));
    const x = part(event.clientX, box.left, box.width, this.canvas.width);
    const y = part(event.clientY, box.top, box.height, this.canvas.height);
    this.send(5, buttons, x >> 8, x & 255, y >> 8, y & 255);
  }

  listen() {
    const on = (name, act) => this.canvas.addEventListener(name, act, { signal: this.listeners.signal, passive: false });
    const held = new Map();
    for (const name of ["keydown", "keyup"]) {
      on(name, (event) => {
        event.preventDefault();
        const down = name === "keydown";
        // What went down as one symbol goes up as the same, whatever was pressed meanwhile.
        const symbol = down ? keysym(event) : held.get(event.code) || keysym(event);
        if (!symbol) return;
        if (down) held.set(event.code, symbol);
        else held.delete(event.code);
        this.key(symbol, down);
        // Control and Alt alone give the keyboard back.
        if (!down && event.ctrlKey !== event.altKey && held.size === 1
          && /^(Control|Alt)/.test([...held.keys()][0]) && /^(Control|Alt)/.test(event.code)) {
          this.canvas.blur();
        }
      });
    }
    on("blur", () => {
      held.forEach((symbol) => this.key(symbol, false));
      held.clear();
    });
    for (const name of ["pointerdown", "pointerup", "pointermove"]) {
      on(name, (event) => {
        if (name === "pointerdown") {
          this.canvas.focus();
          this.canvas.setPointerCapture(event.pointerId);
        }
        // The browser counts left, right, middle; RFB left, middle, right.
        const { buttons } = event;
        this.pointer(event, (buttons & 1) | ((buttons & 4) >> 1) | ((buttons & 2) << 1));
      });
    }
    on("contextmenu", (event) => event.preventDefault());
    on("wheel", (event) => {
      event.preventDefault();
      this.pointer(event, event.deltaY < 0 ? WHEEL.up : WHEEL.down);
      this.pointer(event, 0);
    });
  }
}
