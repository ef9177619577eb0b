/**
 * Uploads by tus: several at once, with pause, and on after a lost connection, a reload, or a sign-in that ended.
 * tus-js-client keeps the upload's URL (its URL storage), `kept.ts` the file.
 */
import { computed, signal, type Signal } from "@preact/signals";
import * as tus from "tus-js-client";
import { address, Problem, problemIn, request } from "./api.ts";
import * as kept from "./kept.ts";
import { claims, refused, token } from "./session.ts";

export type State = "queued" | "sending" | "paused" | "waiting" | "done" | "failed" | "lost";

export interface Upload {
  id: string;
  name: string;
  size: number;
  room: string | null;
  state: Signal<State>;
  sent: Signal<number>;
  /** Bytes a second, as of late. */
  speed: Signal<number>;
  /** The api's sentence, where it has refused it. */
  detail: Signal<string>;
  /** The file's id, once it is stored. */
  media: Signal<string | null>;
  /** What the scanner says, where it is bad. */
  verdict: Signal<"infected" | "unscannable" | null>;
  file: File | null;
}

interface Running {
  tus: tus.Upload;
  tries: number;
  retry: number;
  release: () => void;
  /** The api has answered where the upload is, or that there is none. Before, it can't be ended there. */
  created: Promise<void>;
}

const AT_ONCE = 3;
const CHUNK = 16 * 1024 * 1024;
/** Up to this size one request is enough: creation with its bytes. */
const SMALL = 1024 * 1024;
const LONGEST_WAIT = 5000;
const PAUSED = "media-paused";
const FINGERPRINT = "media-upload";

export const uploads = signal<Upload[]>([]);
export const active = computed(() => uploads.value.filter((each) => ["queued", "sending", "waiting"].includes(each.state.value)));
export const needy = computed(() => uploads.value.filter((each) => each.state.value === "lost" || each.state.value === "failed"));

const running = new Map<string, Running>();
let onStored: (media: string, upload: Upload) => void = () => {};

const owner = (): string => claims.value?.subject ?? "";

function fingerprint(file: { name: string; size: number; lastModified?: number }, room: string | null): string {
  return [FINGERPRINT, owner(), room, file.name, file.size, file.lastModified ?? ""].map(encodeURIComponent as never).join("-");
}

function entry(id: string, name: string, size: number, room: string | null, file: File | null, state: State): Upload {
  return {
    id, name, size, room, file,
    state: signal(state), sent: signal(0), speed: signal(0), detail: signal(""), media: signal<string | null>(null), verdict: signal<"infected" | "unscannable" | null>(null),
  };
}

/** Begins uploads, or goes on with those of the same files that were interrupted. */
export function add(files: Iterable<File>, room: string | null): void {
  const fresh: Upload[] = [];
  for (const file of files) {
    const lost = uploads.value.find(
      (each) => each.state.value === "lost" && each.name === file.name && each.size === file.size,
    );
    if (lost) drop(lost.id);
    const upload = entry(crypto.randomUUID?.() ?? String(Math.random()), file.name, file.size, lost ? lost.room : room, file, "queued");
    fresh.push(upload);
    kept.keep({ id: upload.id, owner: owner(), file, room: upload.room }).catch(() => {}); // then a reload asks for it
  }
  uploads.value = [...uploads.value, ...fresh];
  next();
}

function drop(id: string): void {
  uploads.value = uploads.value.filter((each) => each.id !== id);
}

function next(): void {
  let free = AT_ONCE - running.size;
  for (const upload of uploads.value) {
    if (free <= 0) return;
    if (upload.state.value === "queued" && !running.has(upload.id)) {
      free -= 1;
      void begin(upload);
    }
  }
}

async function begin(upload: Upload): Promise<void> {
  const { file, room } = upload;
  if (file === null) return;
  let used = "";
  let isCreated = (): void => {};
  const created = new Promise<void>((resolve) => (isCreated = resolve));
  const client = new tus.Upload(file, {
    endpoint: address("/v1/media/uploads"),
    metadata: { filename: file.name, filetype: file.type, ...(room === null ? {} : { room_id: room }) },
    chunkSize: CHUNK,
    headers: { "Idempotency-Key": upload.id }, // if the answer to the creation is lost, it is the same upload again
    uploadDataDuringCreation: file.size <= SMALL,
    retryDelays: null, // `failed` below waits longer, and for a sign-in
    removeFingerprintOnSuccess: true,
    fingerprint: () => Promise.resolve(fingerprint(file, room)),
    onBeforeRequest: async (request) => {
      used = await token();
      request.setHeader("Authorization", `Bearer ${used}`);
    },
    onAfterResponse: (_, answer) => {
      const status = answer.getStatus();
      if (status === 401) refused(used, problemIn(status, answer.getBody() ?? "").message);
      // The client takes every other error to HEAD for the end of the upload and begins anew.
      if ([401, 408, 409, 423, 429].includes(status) || status >= 500) throw problemIn(status, answer.getBody() ?? "");
    },
    onProgress: (sent) => progressed(upload, sent),
    onSuccess: ({ lastResponse }) => stored(upload, lastResponse.getHeader("Upload-Media-Id") ?? null),
    onUploadUrlAvailable: () => isCreated(),
    onError: (error) => {
      isCreated();
      failed(upload, error);
    },
  });
  const release = await alone(upload.id);
  if (upload.state.value !== "queued") return release();
  running.set(upload.id, { tus: client, tries: 0, retry: 0, release, created });
  upload.state.value = "sending";
  try {
    const [before] = await client.findPreviousUploads();
    if (before) client.resumeFromPreviousUpload(before);
  } catch {
    // Without a URL storage the upload begins anew.
  }
  if (running.has(upload.id)) client.start();
}

/** One tab sends an upload; another that has read of it waits, and goes on if that tab is closed. */
function alone(id: string): Promise<() => void> {
  if (!navigator.locks) return Promise.resolve(() => {});
  return new Promise((resolve) => {
    void navigator.locks.request(`media-upload-${id}`, () => new Promise<void>((release) => resolve(release)));
  });
}

const samples = new WeakMap<Upload, { at: number; sent: number }>();

function progressed(upload: Upload, sent: number): void {
  const now = performance.now();
  const before = samples.get(upload);
  if (!before || sent < before.sent) samples.set(upload, { at: now, sent });
  else if (now - before.at > 500) {
    const speed = (1000 * (sent - before.sent)) / (now - before.at);
    upload.speed.value = upload.speed.value === 0 ? speed : 0.7 * upload.speed.value + 0.3 * speed;
    samples.set(upload, { at: now, sent });
  }
  const run = running.get(upload.id);
  if (run && sent > upload.sent.value) run.tries = 0;
  if (upload.state.value === "waiting") upload.state.value = "sending";
  upload.sent.value = sent;
}

function ended(upload: Upload, state: State): void {
  const run = running.get(upload.id);
  clearTimeout(run?.retry);
  running.delete(upload.id);
  run?.release();
  upload.state.value = state;
  upload.speed.value = 0;
  if (state === "done" || state === "failed") kept.forget(upload.id).catch(() => {});
  next();
}

function stored(upload: Upload, media: string | null): void {
  upload.sent.value = upload.size;
  upload.media.value = media;
  ended(upload, "done");
  if (media !== null) onStored(media, upload);
}

/** Notes the verdict on a file that was uploaded here. */
export function judged(media: string, verdict: "infected" | "unscannable"): void {
  const upload = uploads.value.find((each) => each.media.value === media);
  if (upload) upload.verdict.value = verdict;
}

function failed(upload: Upload, error: Error | tus.DetailedError): void {
  const answer = "originalResponse" in error ? error.originalResponse : null;
  const run = running.get(upload.id);
  if (!run || upload.state.value === "paused") return;
  if (answer === null || answer === undefined) {
    const cause = ("causingError" in error ? error.causingError : null) as Problem | null;
    upload.detail.value = cause?.status && cause.status !== 401 ? cause.message : "";
    upload.state.value = "waiting";
    run.tries += 1;
    const wait = Math.min(LONGEST_WAIT, 500 * 2 ** run.tries);
    again(run, wait);
    return;
  }
  upload.detail.value = problemIn(answer.getStatus(), answer.getBody()).message;
  ended(upload, "failed");
}

function again(run: Running, wait: number): void {
  clearTimeout(run.retry);
  run.retry = window.setTimeout(() => {
    run.retry = 0;
    run.tus.start();
  }, wait);
}

// --- what people do with uploads -------------------------------------------------------------------------------------

export function pause(upload: Upload): void {
  const run = running.get(upload.id);
  upload.state.value = "paused";
  notePaused();
  void run?.created.then(() => {
    if (upload.state.value !== "paused") return;
    void run.tus.abort();
    ended(upload, "paused");
  });
}

export function resume(upload: Upload): void {
  if (upload.state.value !== "paused" && upload.state.value !== "failed") return;
  upload.state.value = running.has(upload.id) ? "sending" : "queued";
  upload.detail.value = "";
  notePaused();
  next();
}

export async function giveUp(upload: Upload): Promise<void> {
  const run = running.get(upload.id);
  const { id } = upload;
  drop(id);
  if (run) {
    await run.created;
    await run.tus.abort();
  }
  ended(upload, "failed");
  notePaused();
  await endThere(upload);
}

/** Ends an upload at the api, and gives back what it held of the quota. */
async function endThere(upload: Upload): Promise<void> {
  const storage = tus.defaultOptions.urlStorage;
  const found = await storage.findAllUploads().catch(() => []);
  for (const each of found) {
    const isIt = upload.file
      ? each.urlStorageKey.includes(fingerprint(upload.file, upload.room))
      : each.urlStorageKey === upload.id;
    if (!isIt) continue;
    await storage.removeUpload(each.urlStorageKey);
    if (each.uploadUrl) await deleteUpload(each.uploadUrl);
  }
}

/** Tries again while the api cannot do it: the request that was broken off may hold the upload for a moment longer. */
async function deleteUpload(url: string): Promise<void> {
  for (let tries = 1; tries <= 20; tries += 1) {
    try {
      await request("DELETE", url, { headers: { "Tus-Resumable": "1.0.0" } });
      return;
    } catch (error) {
      if (error instanceof Problem && [403, 404, 410].includes(error.status)) return;
      await new Promise((resolve) => setTimeout(resolve, Math.min(5000, 300 * tries)));
    }
  }
}

export function clear(): void {
  uploads.value = uploads.value.filter((each) => each.state.value !== "done" && each.state.value !== "failed");
}

function notePaused(): void {
  const paused = uploads.value.filter((each) => each.state.value === "paused").map((each) => each.id);
  sessionStorage.setItem(PAUSED, JSON.stringify(paused));
}

/** Goes on with what was interrupted. `stored` is called with each file that is stored. */
export async function start(stored: (media: string, upload: Upload) => void): Promise<void> {
  onStored = stored;
  const paused = new Set(JSON.parse(sessionStorage.getItem(PAUSED) ?? "[]") as string[]);
  const found = (await kept.all().catch(() => [])).filter((each) => each.owner === owner());
  const back = found.map((each) =>
    entry(each.id, each.file.name, each.file.size, each.room, each.file, paused.has(each.id) ? "paused" : "queued"),
  );
  const prints = found.map((each) => fingerprint(each.file, each.room));
  const remembered = await tus.defaultOptions.urlStorage.findAllUploads().catch(() => []);
  for (const each of remembered) {
    if (!each.urlStorageKey.includes(FINGERPRINT) || prints.some((print) => each.urlStorageKey.includes(print))) continue;
    if (Date.now() - Date.parse(each.creationTime) > 86_400_000) continue; // the api has ended it
    const { filename = "", room_id = null } = each.metadata;
    // Somebody else's, who was signed in in this browser.
    if (!each.urlStorageKey.includes(fingerprint({ name: filename, size: each.size ?? 0 }, room_id))) continue;
    back.push(entry(each.urlStorageKey, filename, each.size ?? 0, room_id, null, "lost"));
  }
  uploads.value = [...uploads.value, ...back];
  next();
}

addEventListener("online", () => {
  for (const run of running.values()) if (run.retry !== 0) again(run, 100);
});
