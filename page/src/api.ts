/** Calls of the public API: the types are those of its OpenAPI document, the errors are its own sentences. */
import type { components } from "#schema";
import { inUnits, textOf } from "./format.ts";
import { refused, taken, token } from "./session.ts";
import { text } from "./text/index.ts";

type Schemas = components["schemas"];
export type FileInfo = Schemas["MediaInfo"];
export type Job = Schemas["Job"];
export type Usage = Schemas["Usage"];
export type Segment = Schemas["Segment"];
export type Word = Schemas["Word"];
export type SignedOne = Schemas["SignedOne"];
export type ScanStatus = FileInfo["scan_status"];
export interface Page<T> {
  data: T[];
  next_cursor: string | null;
}

/** A refusal of the api (RFC 9457), or an outage: then `status` is 0. Its message is for people. */
export class Problem extends Error {
  readonly status: number;
  readonly code: string;
  constructor(status: number, code: string, detail: string) {
    super(detail);
    this.status = status;
    this.code = code;
  }
}

export async function problemOf(answer: Response): Promise<Problem> {
  return problemIn(answer.status, await answer.text().catch(() => ""));
}

export function problemIn(status: number, body: string): Problem {
  try {
    const said = JSON.parse(body) as { code?: string; detail?: string };
    if (said.detail) return new Problem(status, said.code ?? "", inUnits(said.detail));
  } catch {
    // A proxy between the page and the api answered.
  }
  return new Problem(status, "", text.value.unexpected(status));
}

type Query = Record<string, string | number | boolean | null | undefined>;

interface Options {
  query?: Query;
  /** Sent as JSON, unless it is a form. */
  body?: object | FormData;
  headers?: Record<string, string>;
  signal?: AbortSignal;
  /** Goes on when the page is closed. */
  keepalive?: boolean;
}

export function address(path: string, query: Query = {}): string {
  const url = new URL(path.replace(/^\//, ""), new URL(".", document.baseURI));
  url.hash = "";
  for (const [name, value] of Object.entries(query)) {
    if (value !== null && value !== undefined && value !== "") url.searchParams.set(name, String(value));
  }
  return url.href;
}

/** The answer to a request. A token that has ended is asked for again, and the request repeated. Raises Problem. */
export async function request(method: string, path: string, options: Options = {}): Promise<Response> {
  const { query, body, headers, ...rest } = options;
  for (;;) {
    const bearer = await token();
    let answer: Response;
    try {
      answer = await fetch(address(path, query), {
        ...rest,
        method,
        credentials: "omit",
        headers: {
          Authorization: `Bearer ${bearer}`,
          ...(body && !(body instanceof FormData) ? { "Content-Type": "application/json" } : {}),
          ...headers,
        },
        ...(body ? { body: body instanceof FormData ? body : JSON.stringify(body) } : {}),
      });
    } catch (error) {
      if (rest.signal?.aborted) throw error;
      throw new Problem(0, "", text.value.unreachable);
    }
    if (answer.status === 401) {
      refused(bearer, (await problemOf(answer)).message);
      continue;
    }
    taken(bearer);
    if (!answer.ok) throw await problemOf(answer);
    return answer;
  }
}

async function json<T>(method: string, path: string, options?: Options): Promise<T> {
  return (await (await request(method, path, options)).json()) as T;
}

const id = encodeURIComponent;

// --- files -----------------------------------------------------------------------------------------------------------

export const listFiles = (query: Query, signal?: AbortSignal) => json<Page<FileInfo>>("GET", "/v1/media", { query, signal });
export const listRoom = (room: string, query: Query, signal?: AbortSignal) =>
  json<Page<FileInfo>>("GET", `/v1/rooms/${id(room)}/files`, { query, signal });
export const info = async (file: string) => (await json<{ data: FileInfo }>("GET", `/v1/media/${id(file)}/info`)).data;
export const change = async (file: string, body: { filename?: string; tenant_scope?: boolean; labels?: Record<string, string> }) =>
  (await json<{ data: FileInfo }>("PATCH", `/v1/media/${id(file)}`, { body })).data;
export const remove = (file: string, keepalive = false) => request("DELETE", `/v1/media/${id(file)}`, { keepalive });
export const attach = (room: string, file: string) =>
  request("POST", `/v1/rooms/${id(room)}/files`, { body: { media_id: file } });
export const detach = (room: string, file: string) => request("DELETE", `/v1/rooms/${id(room)}/files/${id(file)}`);
export const rescan = (file: string) => request("POST", `/v1/media/${id(file)}/rescan`);

export async function thumbnail(file: string, size: number, signal: AbortSignal): Promise<Blob> {
  const answer = await request("GET", `/v1/media/download/${id(file)}/thumbnail`, { query: { size }, signal });
  return answer.blob();
}

/** The first `bytes` of a file, as text. */
export async function beginning(file: string, bytes: number, signal: AbortSignal): Promise<string> {
  const answer = await request("GET", `/v1/media/download/${id(file)}`, {
    headers: { Range: `bytes=0-${bytes - 1}` },
    signal,
  });
  const charset = /charset=([\w-]+)/.exec(answer.headers.get("Content-Type") ?? "")?.[1] ?? "utf-8";
  return textOf(new Uint8Array(await answer.arrayBuffer()), charset);
}

export async function whole(file: string, signal: AbortSignal): Promise<Blob> {
  return (await request("GET", `/v1/media/download/${id(file)}`, { signal })).blob();
}

/** A URL of this api that works without a token for five minutes, and ends early with the file. */
export async function sign(file: string): Promise<{ url: string; expires_at: string }> {
  const body = { media_ids: [file], via: "api" };
  const [signed] = (await json<{ data: SignedOne[] }>("POST", "/v1/media/sign", { body })).data;
  if (!signed?.url || !signed.expires_at) {
    throw new Problem(404, signed?.error?.code ?? "", signed?.error?.detail ?? text.value.unexpected(404));
  }
  return { url: signed.url, expires_at: signed.expires_at };
}

/** A place in a recording where something was said. */
export type Hit = Schemas["SearchHit"];

export const listSaid = (query: Query, signal: AbortSignal) => json<Page<Hit>>("GET", "/v1/transcripts/search", { query, signal });

// --- jobs, usage -----------------------------------------------------------------------------------------------------

export const usage = async () => (await json<{ data: Usage }>("GET", "/v1/usage")).data;
export const listJobs = (query: Query) => json<Page<Job>>("GET", "/v1/jobs", { query });
export const job = async (name: string) => (await json<{ data: Job }>("GET", `/v1/jobs/${id(name)}`)).data;
export const cancel = async (name: string) => (await json<{ data: Job }>("DELETE", `/v1/jobs/${id(name)}`)).data;
export const subtitles = async (name: string) =>
  (await request("GET", `/v1/jobs/${id(name)}/transcript.vtt`)).text();

export function transcribe(file: string, language: string): Promise<unknown> {
  const form = new FormData();
  form.set("media_id", file);
  form.set("word_timestamps", "true");
  if (language) form.set("language", language);
  return json("POST", "/v1/transcribe", { body: form });
}
