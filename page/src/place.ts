import { signal } from "@preact/signals";
import { fragmentOf, placeIn, type Place } from "./route.ts";

export const place = signal<Place>(placeIn(location.hash));

export function go(to: Partial<Place>, replace = false): void {
  const fragment = fragmentOf(to);
  if (fragment === location.hash) return;
  if (replace) history.replaceState(null, "", fragment);
  else history.pushState(null, "", fragment);
  place.value = placeIn(fragment);
}

/** The same view with another file open, or none. */
export const openFile = (file: string | null, at: number | null = null, replace = false): void =>
  go({ ...place.value, file, at }, replace);

const followed = (): void => {
  place.value = placeIn(location.hash);
};
addEventListener("popstate", followed);
addEventListener("hashchange", followed);
