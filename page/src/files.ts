/**
 * The files of one view, in its order: pages are loaded as one scrolls, and what changes elsewhere is merged in.
 * Only this module changes `files`.
 */
import { type Signal, computed, signal } from "@preact/signals";
import * as api from "./api.ts";
import type { FileInfo } from "./api.ts";
import { appended, fits, merged, type View } from "./listing.ts";

const PAGE = 200;
/** A filtered page may be empty while the list goes on: `more` asks for so many one after the other, then stops. */
const EMPTY_PAGES = 20;

export const files = signal<FileInfo[]>([]);
export const isLoading = signal(false);
export const isComplete = signal(false);
export const failure = signal<string | null>(null);
/** Whether the caller may list everybody's files. Null until the api has said so. */
export const isAdmin = signal<boolean | null>(null);
/** Rooms that the files seen so far are attached to. */
export const seenRooms = signal<Set<string>>(new Set());
/** Files that are hidden while their deletion can be undone. */
export const hidden = signal<Set<string>>(new Set());
/** Ids of files that are selected, to do the same with all of them. */
export const selected = signal<Set<string>>(new Set());
export const view = signal<View>({ scope: "files", kind: null, name: "", sort: "-created" });
export const shown = computed(() =>
  hidden.value.size === 0 ? files.value : files.value.filter((file) => !hidden.value.has(file.media_id)),
);

/** Those of the view that are selected; what is no longer shown is not. */
export const picked = computed(() => (selected.value.size === 0 ? [] : shown.value.filter((file) => selected.value.has(file.media_id))));

function change(which: Signal<Set<string>>, ids: Iterable<string>, isIn: boolean): void {
  const changed = new Set(which.value);
  for (const id of ids) {
    if (isIn) changed.add(id);
    else changed.delete(id);
  }
  which.value = changed;
}

export const select = (ids: Iterable<string>, isSelected: boolean): void => change(selected, ids, isSelected);

let cursor: string | null = null;
/** Files that came, changed or went (null) while a page was on its way: the page may be older. */
const heard = new Map<string, FileInfo | null>();
let generation = new AbortController();

export async function findOutRole(): Promise<void> {
  try {
    await api.listFiles({ owner: "all", limit: 1 });
    isAdmin.value = true;
  } catch (error) {
    if (!(error instanceof api.Problem) || error.status < 400 || error.status >= 500) {
      failure.value = error instanceof Error ? error.message : String(error);
      throw error;
    }
    isAdmin.value = false;
  }
  reload();
}

async function page(of: View, after: string | null, limit: number, signal: AbortSignal): Promise<api.Page<FileInfo>> {
  const room = of.scope === "files" ? null : of.scope.room;
  if (room !== null && !isAdmin.value) {
    // A room's index is newest first, whatever is asked for; names are looked at here.
    const found = await api.listRoom(room, { type: of.kind, limit, cursor: after }, signal);
    return { ...found, data: found.data.filter((file) => fits(file, { ...of, kind: null })) };
  }
  const owner = isAdmin.value ? "all" : "me";
  return api.listFiles({ owner, room, type: of.kind, name: of.name, sort: of.sort, limit, cursor: after }, signal);
}

export function show(wanted: Partial<View>): void {
  view.value = { ...view.value, ...wanted };
  reload();
}

export function reload(): void {
  generation.abort();
  generation = new AbortController();
  cursor = null;
  heard.clear();
  selected.value = new Set();
  files.value = [];
  isComplete.value = false;
  isLoading.value = false;
  failure.value = null;
  void more();
}

/** What failed, once more. */
export const again = (): Promise<void> => (isAdmin.value === null ? findOutRole().catch(() => {}) : more());

/** Loads the next page, unless one is on its way. */
export async function more(): Promise<void> {
  if (isLoading.value || isComplete.value || isAdmin.value === null) return;
  const mine = generation;
  isLoading.value = true;
  heard.clear();
  failure.value = null;
  try {
    for (let tries = 0; tries < EMPTY_PAGES; tries += 1) {
      const found = await page(view.value, cursor, files.value.length === 0 ? 100 : PAGE, mine.signal);
      if (mine !== generation) return;
      cursor = found.next_cursor;
      isComplete.value = cursor === null;
      files.value = appended(files.value, found.data.filter((file) => heard.get(file.media_id) !== null));
      merge([...heard.values()].filter((file) => file !== null));
      note(found.data);
      if (found.data.length > 0 || isComplete.value) break;
    }
  } catch (error) {
    if (mine !== generation) return;
    failure.value = error instanceof Error ? error.message : String(error);
  } finally {
    if (mine === generation) isLoading.value = false;
  }
}

/** Merges in the files at the view's beginning, as they are now. Raises Problem. */
export async function refresh(): Promise<void> {
  if (isAdmin.value === null || isLoading.value) return;
  const mine = generation;
  const found = await page(view.value, null, 50, mine.signal);
  if (mine !== generation) return;
  if (found.next_cursor === null) {
    const there = new Set(found.data.map((file) => file.media_id));
    const left = files.value.filter((file) => there.has(file.media_id));
    if (left.length !== files.value.length) files.value = left;
  }
  take(found.data);
}

/** Puts files at their places, whether they are known already or new. */
function take(found: FileInfo[]): void {
  if (isLoading.value) for (const file of found) heard.set(file.media_id, file);
  merge(found);
  note(found);
}

function merge(found: FileInfo[]): void {
  if (found.length > 0) files.value = merged(files.value, found, view.value.sort, isComplete.value);
}

function note(found: FileInfo[]): void {
  const rooms = found.flatMap((file) => file.rooms).filter((room) => !seenRooms.value.has(room));
  if (rooms.length > 0) seenRooms.value = new Set([...seenRooms.value, ...rooms]);
}

/** Asks for a file again: it may be new, changed, or gone. Returns it, or null. */
export async function look(id: string): Promise<FileInfo | null> {
  try {
    const file = await api.info(id);
    if (fits(file, view.value)) take([file]);
    else drop(id);
    return file;
  } catch (error) {
    if (!(error instanceof api.Problem) || error.status !== 404) throw error;
    drop(id);
    return null;
  }
}

export function drop(id: string): void {
  if (isLoading.value) heard.set(id, null);
  if (files.value.some((file) => file.media_id === id)) {
    files.value = files.value.filter((file) => file.media_id !== id);
  }
}

export const hide = (ids: Iterable<string>, isHidden: boolean): void => change(hidden, ids, isHidden);

export const find = (id: string): FileInfo | undefined => files.value.find((file) => file.media_id === id);
