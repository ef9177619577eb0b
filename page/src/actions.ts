/** What people do with a file, each with the way back that the API lets it have. */
import { signal } from "@preact/signals";
import * as api from "./api.ts";
import type { FileInfo } from "./api.ts";
import * as files from "./files.ts";
import * as jobs from "./jobs.ts";
import * as live from "./live.ts";
import { text } from "./text/index.ts";
import { complain, say } from "./toasts.ts";

/** The dialog that is open, and for which file. */
export type Asked = "rename" | "room" | "link" | "transcribe" | "record" | "keys" | "openRoom";
export const asked = signal<{ dialog: Asked; file?: FileInfo } | null>(null);

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

export async function rename(file: FileInfo, name: string): Promise<void> {
  if (name === file.filename || name === "") return;
  await tried(async () => {
    const now = await api.change(file.media_id, { filename: name });
    await again(file);
    const run = (): void => void tried(() => api.change(file.media_id, { filename: file.filename }).then(() => again(file)));
    say(text.value.renamed(now.filename), { action: { label: text.value.undo, run } });
  });
}

export async function showTo(file: FileInfo, everybody: boolean): Promise<void> {
  await tried(async () => {
    await api.change(file.media_id, { tenant_scope: everybody });
    await again(file);
    const run = (): void => void tried(() => api.change(file.media_id, { tenant_scope: !everybody }).then(() => again(file)));
    const said = everybody ? text.value.shownToAll(file.filename) : text.value.shownToRooms(file.filename);
    say(said, { action: { label: text.value.undo, run } });
  });
}

export async function attach(file: FileInfo, room: string): Promise<void> {
  await tried(async () => {
    await api.attach(room, file.media_id);
    await again(file);
    const run = (): void => void tried(() => api.detach(room, file.media_id).then(() => again(file)));
    say(text.value.attached(file.filename, room), { action: { label: text.value.undo, run } });
  });
}

export async function detach(file: FileInfo, room: string): Promise<void> {
  await tried(async () => {
    await api.detach(room, file.media_id);
    await again(file);
    const run = (): void => void tried(() => api.attach(room, file.media_id).then(() => again(file)));
    say(text.value.removed(file.filename, room), { action: { label: text.value.undo, run } });
  });
}

/** The API has no way back from a deletion, so it is asked for once nobody has wanted it back for a while. */
const deletions = new Set<string>();

export function remove(file: FileInfo): void {
  const id = file.media_id;
  files.hide(id, true);
  live.forget(id);
  deletions.add(id);
  const run = (): void => {
    deletions.delete(id);
    files.hide(id, false);
    say(text.value.restored(file.filename));
  };
  const passed = (): void => void carryOut(id);
  say(text.value.deleted(file.filename), { action: { label: text.value.undo, run }, passed });
}

async function carryOut(id: string, keepalive = false): Promise<void> {
  if (!deletions.delete(id)) return;
  const isDone = await tried(() => api.remove(id, keepalive));
  if (isDone) files.drop(id);
  files.hide(id, false);
  live.refreshUsage().catch(() => {});
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
