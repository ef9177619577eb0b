import { signal } from "@preact/signals";
import { fragmentOf, placeIn, type Place } from "./route.ts";

export const place = signal<Place>(placeIn(location.hash));

export function go(to: Partial<Place>, replace = false): void {
  const fragment = fragmentOf(to);
  if (fragment === location.hash) return;
  const now = placeIn(fragment);
  if (replace) history.replaceState(history.state, "", fragment);
  else history.pushState({ isOver: now.file !== null && place.value.file === null }, "", fragment);
  place.value = now;
}

/** The same view with another file open, or none. */
export const openFile = (file: string | null, at: number | null = null, replace = false): void =>
  go({ ...place.value, file, at }, replace);

/** Closes the file: back to the view that it was opened over, so that back does not open it again. */
export function closeFile(): void {
  if ((history.state as { isOver?: boolean } | null)?.isOver) history.back();
  else openFile(null, null, true);
}

const followed = (): void => {
  place.value = placeIn(location.hash);
};
addEventListener("popstate", followed);
addEventListener("hashchange", followed);
