/** Where the words that are searched for were said. An api that does not search transcripts yet answers 404. */
import { effect, signal } from "@preact/signals";
import * as api from "./api.ts";
import type { Hit } from "./api.ts";
import { view } from "./files.ts";

const MOST = 12;

export const hits = signal<Hit[]>([]);
/** Null until the api has been asked. */
export const isOffered = signal<boolean | null>(null);

let wanted = new AbortController();

export function start(): void {
  effect(() => {
    const { name, scope } = view.value;
    wanted.abort();
    wanted = new AbortController();
    void look(name, scope === "files" ? null : scope.room, wanted.signal);
  });
}

async function look(words: string, room: string | null, wanted: AbortSignal): Promise<void> {
  if (isOffered.peek() === false) return;
  if (words === "") {
    hits.value = [];
    return;
  }
  try {
    // The last word may not be typed to its end.
    const q = /[\p{L}\p{N}]$/u.test(words) && !words.includes('"') ? `${words}*` : words;
    const found = await api.listSaid({ q, room, limit: MOST }, wanted);
    isOffered.value = true;
    hits.value = found.data;
  } catch (error) {
    if (wanted.aborted) return;
    hits.value = [];
    if (error instanceof api.Problem && error.status === 404 && room === null) isOffered.value = false;
  }
}
