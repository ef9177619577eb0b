/**
 * Live updates: the page shows what other people and the workers change. It reads the api's events by fetch, since
 * EventSource sends no token. Where the api has no events, it asks every few seconds.
 */
import { signal } from "@preact/signals";
import * as api from "./api.ts";
import * as files from "./files.ts";
import * as jobs from "./jobs.ts";
import { events } from "./sse.ts";

export const isConnected = signal(true);
export const usage = signal<api.Usage | null>(null);

const POLL = 2500;
const POLL_HIDDEN = 15_000;
const RECONNECT = 1500;
/** So often everything is looked at beside the events. */
const LOOK_AGAIN = 30_000;
/** Files waiting for a verdict that one round asks for, beside the list's first page. */
const PENDING_AT_ONCE = 20;

/** Files that this page has uploaded, until their verdict: id -> name. */
const awaited = new Map<string, string>();
let onVerdict: (name: string, verdict: "infected" | "unscannable" | "clean", id: string) => void = () => {};

export function start(verdict: typeof onVerdict): void {
  onVerdict = verdict;
  void follow();
  setInterval(() => catchUp().catch(() => {}), LOOK_AGAIN);
}

export function awaitVerdict(id: string, name: string): void {
  awaited.set(id, name);
}

export function forget(id: string): void {
  awaited.delete(id);
}

export async function refreshUsage(): Promise<void> {
  usage.value = await api.usage();
}

async function follow(): Promise<void> {
  let last: string | null = null;
  for (;;) {
    const over = new AbortController();
    try {
      const headers: Record<string, string> = { Accept: "text/event-stream" };
      if (last !== null) headers["Last-Event-ID"] = last;
      const answer = await api.request("GET", "/v1/events", { headers, signal: over.signal });
      if (!answer.headers.get("Content-Type")?.startsWith("text/event-stream") || !answer.body) return poll();
      // The stream has begun, so nothing is missed between this look and its first event.
      await catchUp();
      for await (const event of events(answer.body)) {
        isConnected.value = true;
        last = event.id ?? last;
        if (event.data !== "") happened(event.data);
      }
    } catch (error) {
      const status = error instanceof api.Problem ? error.status : -1;
      if (status === 410) last = null; // what it was is no longer kept; `catchUp` looks at everything
      else if (status >= 400 && status < 500) return poll();
      isConnected.value = status !== 0;
    } finally {
      over.abort(); // else a stream that nobody reads keeps one of the few connections that a browser has
    }
    await pause(RECONNECT);
  }
}

async function poll(): Promise<void> {
  for (;;) {
    try {
      await catchUp();
    } catch (error) {
      isConnected.value = !(error instanceof api.Problem && error.status === 0);
    }
    await pause(document.hidden ? POLL_HIDDEN : POLL);
  }
}

function pause(milliseconds: number): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(done, milliseconds);
    function done(): void {
      clearTimeout(timer);
      removeEventListener("online", done);
      document.removeEventListener("visibilitychange", seen);
      resolve();
    }
    function seen(): void {
      if (!document.hidden) done();
    }
    addEventListener("online", done);
    document.addEventListener("visibilitychange", seen);
  });
}

/** Asks again for all that may have changed without an event. Raises Problem. */
async function catchUp(): Promise<void> {
  await Promise.all([
    files.isAdmin.value === null ? files.findOutRole() : files.failure.value ? files.more() : files.refresh(),
    jobs.refresh(),
    refreshUsage(),
  ]);
  const pending = files.files.value.filter((file) => file.scan_status === "pending").map((file) => file.media_id);
  const wanted = new Set([...awaited.keys(), ...pending.slice(0, PENDING_AT_ONCE)]);
  await Promise.all([...wanted].map(look));
  isConnected.value = true;
}

async function look(id: string): Promise<void> {
  const now = await files.look(id);
  const name = awaited.get(id);
  if (name === undefined || now?.scan_status === "pending" || now?.scan_status === "error") return;
  awaited.delete(id);
  // Nobody here has deleted it, and an infected file is answered like one that is not there.
  onVerdict(now?.filename ?? name, now === null ? "infected" : (now.scan_status as "clean"), id);
}

// --- events ----------------------------------------------------------------------------------------------------------

/** Files to ask for, because something happened to them. */
const due = new Set<string>();
let isDue = false;
/** Events that come within so many milliseconds are answered by one look. */
const MOMENT = 150;

interface Happened {
  type: string;
  media_id: string;
  data?: { scan_status?: string };
}

function happened(data: string): void {
  const { type, media_id: id, data: facts } = JSON.parse(data) as Happened;
  if (type === "deleted") {
    awaited.delete(id);
    files.drop(id);
  } else if (type === "scanned" && facts?.scan_status === "infected") {
    const name = awaited.get(id) ?? files.find(id)?.filename;
    awaited.delete(id);
    files.drop(id);
    if (name !== undefined) onVerdict(name, "infected", id);
  } else due.add(id);
  lookIn(MOMENT);
}

function lookIn(milliseconds: number): void {
  if (isDue) return;
  isDue = true;
  setTimeout(() => void lookAtDue(), milliseconds);
}

/** Asks for the files that are due. A file that cannot be answered now stays due. */
async function lookAtDue(): Promise<void> {
  isDue = false;
  const ids = [...due];
  due.clear();
  const looks = ids.map((id) =>
    look(id).catch((error: unknown) => {
      if (error instanceof api.Problem && [0, 429, 503].includes(error.status)) due.add(id);
    }),
  );
  await Promise.allSettled([...looks, jobs.refresh(), refreshUsage()]);
  if (due.size > 0) lookIn(RECONNECT);
}
