/** Which words of a transcript belong to a moment. Pure. */
import type { Segment } from "./api.ts";

/** The segment that is being said at `seconds`, or the last one before; -1 before the first. */
export function segmentAt(segments: readonly Pick<Segment, "start">[], seconds: number): number {
  let [low, high] = [0, segments.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (segments[middle]!.start <= seconds + 0.05) low = middle + 1;
    else high = middle;
  }
  return low - 1;
}

/** Whether `segment` is still being said: a caption stays for a moment after its last word. */
export function isSaid(segment: Pick<Segment, "start" | "end">, seconds: number): boolean {
  return seconds + 0.05 >= segment.start && seconds <= segment.end + 0.6;
}
