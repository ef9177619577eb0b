/** What people do with a file. Each action can be undone, as far as the API can undo it. */
import { signal } from "@preact/signals";
import * as api from "./api.ts";
import type { FileInfo } from "./api.ts";
import * as files from "./files.ts";
import * as jobs from "./jobs.ts";
import * as live from "./live.ts";
import { text } from "./text/index.ts";
import { complain, say } from "./toasts.ts";

/** The dialog that is open, and for which file, or for which of them. */
export type Asked = "rename" | "room" | "label" | "link" | "transcribe" | "record" | "keys" | "openRoom";
export const asked = signal<{ dialog: Asked; file?: FileInfo; files?: FileInfo[] } | null>(null);

async function tried(what: () => Promise<unknown>): Promise<boolean> {
  try {
    await what();
    return true;
  } catch (error) {
    complain(error);
    return false;
  }
}

const again = (file: FileInfo): Promise<unknown> => files.look(file.media_id);

/** Does what can be undone, and says so with a button that undoes it. `undo` is called later, or never. */
async function undoable<T>(
  file: FileInfo,
  act: () => Promise<T>,
  undo: () => Promise<unknown>,
  said: (done: T) => string,
): Promise<void> {
  await tried(async () => {
    const done = await act();
    await again(file);
    const run = (): void => void tried(() => undo().then(() => again(file)));
    say(said(done), { action: { label: text.value.undo, run } });
  });
}

export async function rename(file: FileInfo, name: string): Promise<void> {
  if (name === file.filename || name === "") return;
  const call = (filename: string) => () => api.change(file.media_id, { filename });
  await undoable(file, call(name), call(file.filename), (now) => text.value.renamed(now.filename));
}

export async function showTo(file: FileInfo, everybody: boolean): Promise<void> {
  const call = (tenant_scope: boolean) => () => api.change(file.media_id, { tenant_scope });
  await undoable(file, call(everybody), call(!everybody), () =>
    everybody ? text.value.shownToAll(file.filename) : text.value.shownToRooms(file.filename),
  );
}

/** Gives a file these labels in place of those that it has. */
export async function label(file: FileInfo, labels: Record<string, string>): Promise<void> {
  const call = (now: Record<string, string>) => () => api.change(file.media_id, { labels: now });
  await undoable(file, call(labels), call(file.labels ?? {}), () => text.value.labelled(file.filename));
}

const attaching = (file: FileInfo, room: string) => () => api.attach(room, file.media_id);
const detaching = (file: FileInfo, room: string) => () => api.detach(room, file.media_id);

export async function attach(given: FileInfo[], room: string): Promise<void> {
  const [file] = given;
  if (given.length === 1) {
    return undoable(file!, attaching(file!, room), detaching(file!, room), () => text.value.attached(file!.filename, room));
  }
  const added: FileInfo[] = [];
  for (const each of given) {
    if (each.rooms.includes(room)) continue;
    if (!(await tried(attaching(each, room)))) break; // the next would be refused for the same reason
    added.push(each);
    await tried(() => again(each));
  }
  if (added.length === 0) return;
  const run = async (): Promise<void> => {
    for (const each of added) await tried(() => detaching(each, room)().then(() => again(each)));
  };
  say(text.value.attachedMany(added.length, room), { action: { label: text.value.undo, run: () => void run() } });
}

export async function detach(file: FileInfo, room: string): Promise<void> {
  await undoable(file, detaching(file, room), attaching(file, room), () => text.value.removed(file.filename, room));
}

/** Files that are hidden and not deleted yet. The API cannot undo a deletion, so the call waits until the toast has gone. */
const deletions = new Set<string>();
/** So many of them are asked for at the same time. */
const AT_ONCE = 4;

export function remove(gone: FileInfo[]): void {
  const ids = gone.map((file) => file.media_id);
  const name = gone.length === 1 ? gone[0]!.filename : null;
  files.hide(ids, true);
  files.select(ids, false);
  ids.forEach(live.forget);
  for (const id of ids) deletions.add(id);
  const run = (): void => {
    for (const id of ids) deletions.delete(id);
    files.hide(ids, false);
    say(name === null ? text.value.restoredMany(ids.length) : text.value.restored(name));
  };
  const passed = async (): Promise<void> => {
    const left = [...ids];
    const worker = async (): Promise<void> => {
      for (let id = left.shift(); id !== undefined; id = left.shift()) await carryOut(id);
    };
    await Promise.all(Array.from({ length: AT_ONCE }, worker));
    live.refreshUsage().catch(() => {});
  };
  say(name === null ? text.value.deletedMany(ids.length) : text.value.deleted(name), {
    action: { label: text.value.undo, run },
    passed: () => void passed(),
  });
}

async function carryOut(id: string, keepalive = false): Promise<void> {
  if (!deletions.delete(id)) return;
  const isDone = await tried(() => api.remove(id, keepalive));
  if (isDone) files.drop(id);
  files.hide([id], false);
}

addEventListener("pagehide", () => {
  for (const id of [...deletions]) void carryOut(id, true);
});

export async function transcribe(file: FileInfo, language: string): Promise<void> {
  await tried(async () => {
    await api.transcribe(file.media_id, language);
    say(text.value.transcribing(file.filename));
    await jobs.refresh();
  });
}

export async function scanAgain(file: FileInfo): Promise<void> {
  await tried(async () => {
    await api.rescan(file.media_id);
    say(text.value.rescanning(file.filename));
    live.awaitVerdict(file.media_id, file.filename);
    await again(file);
  });
}

/** Saves the file by a signed URL, so that the browser writes it to the disk as it comes. */
export async function download(file: FileInfo): Promise<void> {
  await tried(async () => {
    const { url } = await api.sign(file.media_id);
    const link = document.createElement("a");
    link.href = url;
    link.download = file.filename;
    link.rel = "noopener";
    document.body.append(link);
    link.click();
    link.remove();
  });
}

/** Why a file cannot be read now, in words; null if it can. */
export function whyNot(file: FileInfo): string | null {
  return file.scan_status === "infected" ? text.value.scanMeans.infected : null;
}
