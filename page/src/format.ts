/** Sizes, lengths and times as people read them, in the page's language. Pure. */

const UNITS = ["", "KiB", "MiB", "GiB", "TiB"];

/** As mediactl writes them, with at most three digits before the unit: `138 KiB`, `1.5 GiB`. */
export function size(bytes: number, locale = "en"): string {
  let unit = 0;
  while (bytes >= 1000 && unit < UNITS.length - 1) {
    bytes /= 1024;
    unit += 1;
  }
  if (unit === 0) return bytes.toLocaleString(locale, { style: "unit", unit: "byte", unitDisplay: "long" });
  const digits = bytes < 10 ? 1 : 0;
  return `${bytes.toLocaleString(locale, { maximumFractionDigits: digits })} ${UNITS[unit]}`;
}

/** The beginning of a text, without what is left of a character at its end. For a decoder UTF-16 is always little-endian. */
export function textOf(bytes: Uint8Array, charset: string): string {
  const isBigEndian = charset === "utf-16" && bytes[0] === 0xfe && bytes[1] === 0xff;
  return new TextDecoder(isBigEndian ? "utf-16be" : charset).decode(bytes, { stream: true });
}

/** A sentence of the API with its long counts of bytes (`10,737,418,240 bytes`) in units, as mediactl prints it. */
export function inUnits(sentence: string): string {
  if (!sentence.includes("bytes")) return sentence;
  const counted = sentence.replace(/\b\d{1,3}(,\d{3})+\b/g, (digits) => size(Number(digits.replaceAll(",", ""))));
  return counted.replace(/(iB) bytes\b/g, "$1");
}

/** Seconds as `0:07`, `12:34`, `1:02:03`. */
export function clock(seconds: number): string {
  const whole = Math.max(0, Math.floor(seconds));
  const [hours, minutes, rest] = [Math.floor(whole / 3600), Math.floor((whole % 3600) / 60), whole % 60];
  const two = (number: number): string => String(number).padStart(2, "0");
  return hours > 0 ? `${hours}:${two(minutes)}:${two(rest)}` : `${minutes}:${two(rest)}`;
}

/** Minutes as `10 h`, `90 min`. */
export function minutes(number: number, locale = "en"): string {
  const [unit, value] = number % 60 === 0 && number > 0 ? (["hour", number / 60] as const) : (["minute", number] as const);
  return value.toLocaleString(locale, { style: "unit", unit, unitDisplay: "long" });
}

const STEPS: [Intl.RelativeTimeFormatUnit, number][] = [
  ["minute", 60],
  ["hour", 3600],
  ["day", 86400],
];

/** `3 min. ago` within a week, else the day. */
export function ago(iso: string, now: number, locale = "en"): string {
  const seconds = (Date.parse(iso) - now) / 1000;
  const words = new Intl.RelativeTimeFormat(locale, { numeric: "auto", style: "short" });
  if (Math.abs(seconds) < 45) return words.format(0, "second");
  if (Math.abs(seconds) >= 7 * 86400) {
    return new Date(iso).toLocaleDateString(locale, { day: "numeric", month: "short", year: "numeric" });
  }
  const [unit, step] = STEPS.findLast(([, length]) => Math.abs(seconds) >= length) ?? STEPS[0]!;
  return words.format(Math.round(seconds / step), unit);
}

export function moment(iso: string, locale = "en"): string {
  return new Date(iso).toLocaleString(locale, { dateStyle: "medium", timeStyle: "short" });
}

export type Kind = "image" | "video" | "audio" | "document";

/** As the api's filter `type` sorts them (`media_types.category`). */
export function kindOf(mimeType: string): Kind {
  if (mimeType === "application/mxf") return "video";
  const first = mimeType.split("/", 1)[0];
  return first === "image" || first === "video" || first === "audio" ? first : "document";
}

/** Subtypes that are no word for a kind of file. */
const SHORT: Record<string, string> = { plain: "txt", "octet-stream": "", "svg+xml": "svg", markdown: "md" };

/** `PDF`, `JPEG`: what stands on a file that has no picture. Empty where nobody knows. */
export function typeName(mimeType: string, name: string): string {
  const extension = /\.([A-Za-z0-9]{1,5})$/.exec(name)?.[1];
  const subtype = mimeType.split("/")[1]?.split(";")[0]?.replace(/^(x-|vnd\.)/, "") ?? "";
  return (extension ?? SHORT[subtype] ?? subtype.split(/[.+-]/).at(-1) ?? "").slice(0, 5).toUpperCase();
}
