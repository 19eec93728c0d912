// From a keyboard event to the keysym that RFB sends (X11's keysymdef.h).

const NAMED = {
  Backspace: 0xff08, Tab: 0xff09, Enter: 0xff0d, Pause: 0xff13, ScrollLock: 0xff14, Escape: 0xff1b,
  Home: 0xff50, ArrowLeft: 0xff51, ArrowUp: 0xff52, ArrowRight: 0xff53, ArrowDown: 0xff54,
  PageUp: 0xff55, PageDown: 0xff56, End: 0xff57, PrintScreen: 0xff61, Insert: 0xff63,
  ContextMenu: 0xff67, NumLock: 0xff7f, CapsLock: 0xffe5, Delete: 0xffff,
};
const LEFT_RIGHT = {
  Shift: [0xffe1, 0xffe2], Control: [0xffe3, 0xffe4], Alt: [0xffe9, 0xffea], Meta: [0xffeb, 0xffec],
  AltGraph: [0xfe03, 0xfe03],
};
const RIGHT = 2;
const FUNCTION = /^F([1-9]|1[0-2])$/;
const F1 = 0xffbe;
const UNICODE = 0x01000000;

export const CONTROL = LEFT_RIGHT.Control[0];
export const ALT = LEFT_RIGHT.Alt[0];
export const DELETE = NAMED.Delete;

export function keysym({ key, location }) {
  if (Object.hasOwn(NAMED, key)) return NAMED[key];
  if (Object.hasOwn(LEFT_RIGHT, key)) return LEFT_RIGHT[key][location === RIGHT ? 1 : 0];
  const number = FUNCTION.exec(key);
  if (number) return F1 + Number(number[1]) - 1;
  const [first, ...rest] = key;
  if (rest.length) return 0;
  const point = first.codePointAt(0);
  return point < 0x100 ? point : UNICODE + point;
}
