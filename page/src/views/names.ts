/** Names of files that are not in the list, asked for once each. */
import { signal } from "@preact/signals";
import * as api from "../api.ts";

const known = signal<Map<string, string>>(new Map());
const asked = new Set<string>();

export function names(id: string): string {
  const name = known.value.get(id);
  if (name === undefined && !asked.has(id)) {
    asked.add(id);
    api.info(id)
      .then((file) => (known.value = new Map(known.value).set(id, file.filename)))
      .catch(() => {});
  }
  return name ?? "…";
}
