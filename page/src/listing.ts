/** Which files a view has, and in which order. Pure: what the api does for its pages, for single files that change. */
import type { FileInfo } from "./api.ts";
import { kindOf, type Kind } from "./format.ts";

export type Sort = "created" | "-created" | "name" | "-name" | "size" | "-size";

export interface View {
  scope: "files" | { room: string };
  kind: Kind | null;
  name: string;
  sort: Sort;
}

/** Without case and accents. */
export const folded = (name: string): string => name.normalize("NFKD").replace(/\p{M}/gu, "").toLowerCase();

/** Whether `file` belongs to `view`. */
export function fits(file: FileInfo, view: View): boolean {
  if (file.scan_status === "infected") return false;
  if (view.scope !== "files" && !file.rooms.includes(view.scope.room)) return false;
  if (view.kind !== null && kindOf(file.mime_type) !== view.kind) return false;
  return view.name === "" || folded(file.filename).includes(folded(view.name));
}

function compare(one: FileInfo, other: FileInfo, sort: Sort): number {
  const key = sort.replace("-", "") as "created" | "name" | "size";
  let difference: number;
  if (key === "size") difference = one.size - other.size;
  else if (key === "created") difference = one.created_at < other.created_at ? -1 : one.created_at > other.created_at ? 1 : 0;
  else {
    const [first, second] = [folded(one.filename), folded(other.filename)];
    difference = first < second ? -1 : first > second ? 1 : 0;
  }
  if (difference === 0) difference = one.media_id < other.media_id ? -1 : one.media_id > other.media_id ? 1 : 0;
  return sort.startsWith("-") ? -difference : difference;
}

/** `list` with the next page at its end. A file that is in it already (it moved meanwhile) takes its new facts. */
export function appended(list: FileInfo[], page: FileInfo[]): FileInfo[] {
  const known = new Map(list.map((file, index) => [file.media_id, index]));
  const result = list.slice();
  for (const file of page) {
    const index = known.get(file.media_id);
    if (index === undefined) result.push(file);
    else result[index] = file;
  }
  return result;
}

/**
 * `list` with `found` in it: known files take their new facts, new ones the place that `sort` gives them. Where the list
 * goes on (not `isWhole`), a file that comes after its end is left out: its page will bring it.
 */
export function merged(list: FileInfo[], found: FileInfo[], sort: Sort, isWhole: boolean): FileInfo[] {
  const changed = new Map(found.map((file) => [file.media_id, file]));
  const result: FileInfo[] = [];
  for (const file of list) {
    const now = changed.get(file.media_id);
    if (now !== undefined && compare(file, now, sort) !== 0) continue; // it gets another place
    result.push(now ?? file);
    changed.delete(file.media_id);
  }
  for (const file of changed.values()) {
    let [low, high] = [0, result.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (compare(result[middle]!, file, sort) <= 0) low = middle + 1;
      else high = middle;
    }
    if (low < result.length || isWhole) result.splice(low, 0, file);
  }
  return result;
}
