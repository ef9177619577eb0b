/**
 * Thumbnails by the size that the screen needs, fetched with the token (a picture's `src` carries none), and kept as
 * object URLs while they may be seen again.
 */
import * as api from "./api.ts";

const SIZES = [160, 320, 640, 1024];
const MOST = 600;
const AT_ONCE = 6;

const kept = new Map<string, string>();
const waiting: (() => void)[] = [];
let busy = 0;

/** The api's size for a box of `pixels` on this screen. */
export function sizeFor(pixels: number): number {
  const wanted = pixels * Math.min(2, devicePixelRatio || 1);
  return SIZES.find((size) => size >= wanted * 0.9) ?? SIZES.at(-1)!;
}

export const known = (id: string, size: number): string | undefined => kept.get(`${id}/${size}`);

/** An object URL. Raises Problem; an AbortError where it is no longer wanted. */
export async function load(id: string, size: number, signal: AbortSignal): Promise<string> {
  const name = `${id}/${size}`;
  const before = kept.get(name);
  if (before !== undefined) {
    kept.delete(name);
    kept.set(name, before);
    return before;
  }
  if (busy >= AT_ONCE) await new Promise<void>((resolve) => waiting.push(resolve));
  busy += 1;
  try {
    signal.throwIfAborted();
    const url = URL.createObjectURL(await api.thumbnail(id, size, signal));
    kept.set(name, url);
    for (const [old, oldUrl] of kept) {
      if (kept.size <= MOST) break;
      kept.delete(old);
      URL.revokeObjectURL(oldUrl);
    }
    return url;
  } finally {
    busy -= 1;
    waiting.shift()?.();
  }
}
