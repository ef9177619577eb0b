/**
 * Who is signed in. The token comes by the page's fragment (`make run` prints such a link), by the tenant's OIDC issuer
 * (authorization code with PKCE), or is pasted. It is kept in this tab's sessionStorage, and nowhere else: no cookie.
 *
 * A token ends while the page is open. Then every call waits in `token()` until there is another one, and goes on.
 */
import { computed, signal } from "@preact/signals";
import { claimsOf, tokenIn } from "./claims.ts";

export interface Settings {
  tenant: string;
  oidc: null | { issuer: string; client_id: string; scopes: string };
}

const KEPT = "media-token";
const PENDING = "media-sign-in";
const REDIRECT = (): string => new URL(".", location.href.split("#")[0]!.split("?")[0]).href;

export const settings = signal<Settings | null>(null);
export const current = signal<string | null>(null);
/** Whether the api has refused the token that this tab had, so that the page stays as it is and asks for another. */
export const hasEnded = signal(false);
/** The API's words where it refuses a token that it has never taken, such as that of an old link. */
export const refusal = signal<string | null>(null);
/** The token of a link that would sign in somebody else, until the reader has decided. */
export const offered = signal<string | null>(null);
/** Whether what was given to sign in is no token: a link that was cut off, or what was typed. */
export const isNoToken = signal(false);
/** Why a sign-in failed, for its dialog. */
export const failure = signal<string | null>(null);
export const claims = computed(() => (current.value === null ? null : claimsOf(current.value)));

const others = "BroadcastChannel" in globalThis ? new BroadcastChannel("media-sign-in") : null;
/** Whether the api has taken the token of this tab, now or before a reload. */
let isTaken = false;
let waiting: ((token: string) => void)[] = [];

/** The token; waits until somebody has signed in. */
export function token(): Promise<string> {
  if (current.value !== null && !hasEnded.value) return Promise.resolve(current.value);
  return new Promise((resolve) => waiting.push(resolve));
}

/** The api has refused `used`, because of `why`. A token that came meanwhile stays. */
export function refused(used: string, why: string): void {
  if (used !== current.value) return;
  refusal.value = isTaken ? null : why;
  hasEnded.value = true;
}

/** The api has taken `used`. */
export function taken(used: string): void {
  if (used === current.value) isTaken = true;
}

/** Whether the token is of the person who is signed in, in this tenant. */
function isSame(token: string): boolean {
  const [mine, theirs] = [claims.value, claimsOf(token)];
  return mine !== null && mine.subject === theirs.subject && mine.tenant === theirs.tenant;
}

export function signIn(token: string): void {
  sessionStorage.setItem(KEPT, token);
  if (current.value !== null && !isSame(token)) return location.reload(); // it shows another's files
  isTaken = isTaken && token === current.value;
  current.value = token;
  hasEnded.value = false;
  failure.value = null;
  const woken = waiting;
  waiting = [];
  for (const wake of woken) wake(token);
}

/**
 * A link may come from anybody. Where somebody is signed in, it signs in nobody else without asking: their files would be
 * uploaded for whoever made the link.
 */
function offer(token: string): void {
  if (current.value === null || (isSame(token) && claims.value?.subject !== "")) signIn(token);
  else if (token !== current.value) offered.value = token;
}

export function decide(accepts: boolean): void {
  const token = offered.value;
  offered.value = null;
  if (accepts && token !== null) signIn(token);
}

export function signOut(): void {
  sessionStorage.removeItem(KEPT);
  location.replace(REDIRECT());
}

/** Takes the token that the page's address has, and removes it from the address and from the history. */
function takeFromAddress(): string | null {
  const given = tokenIn(location.hash);
  const isLink = location.hash.startsWith("#token=");
  isNoToken.value = isLink && given === null;
  if (isLink) history.replaceState(history.state, "", `${location.pathname}#/`);
  return given;
}

export async function start(): Promise<void> {
  const given = takeFromAddress();
  const kept = sessionStorage.getItem(KEPT);
  if (kept !== null) {
    signIn(kept);
    taken(kept);
  }
  if (given !== null) offer(given);
  addEventListener("hashchange", () => {
    const pasted = takeFromAddress();
    if (pasted !== null) offer(pasted);
  });
  const query = new URLSearchParams(location.search);
  const code = query.get("code");
  const state = query.get("state");
  if (state !== null && (code !== null || query.has("error"))) {
    history.replaceState(null, "", `${location.pathname}#/`);
    const answer = { state, code, error: query.get("error_description") ?? query.get("error") };
    // A popup of a page that waits hands over what it got and closes. Alone, this tab goes on by itself.
    if (sessionStorage.getItem(PENDING) === null) {
      others?.postMessage({ answer });
      close();
    } else await exchange(answer);
  }
  others?.addEventListener("message", (event: MessageEvent<{ answer?: Answer }>) => {
    if (event.data.answer && sessionStorage.getItem(PENDING)) void exchange(event.data.answer);
  });
  void loadSettings().then((found) => (settings.value = found));
}

async function loadSettings(): Promise<Settings> {
  try {
    const answer = await fetch("./page.json", { credentials: "omit" });
    if (answer.ok) return (await answer.json()) as Settings;
  } catch {
    // Without settings the page still takes a token.
  }
  return { tenant: claims.value?.tenant ?? "", oidc: null };
}

// --- OpenID Connect: authorization code with PKCE (RFC 7636) ---------------------------------------------------------

interface Answer {
  state: string;
  code: string | null;
  error: string | null;
}

interface Issuer {
  authorization_endpoint: string;
  token_endpoint: string;
}

interface Attempt {
  state: string;
  verifier: string;
}

function random(): string {
  return base64url(crypto.getRandomValues(new Uint8Array(32)));
}

function base64url(bytes: Uint8Array): string {
  return btoa(String.fromCharCode(...bytes)).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");
}

async function discover(issuer: string): Promise<Issuer> {
  const answer = await fetch(`${issuer.replace(/\/$/, "")}/.well-known/openid-configuration`, { credentials: "omit" });
  if (!answer.ok) throw new Error(`${issuer} answered ${answer.status}`);
  return (await answer.json()) as Issuer;
}

/** Goes to the issuer: in a popup where the page has something to keep, else in this tab. */
export async function goToIssuer(): Promise<void> {
  const oidc = settings.value?.oidc;
  if (!oidc) return;
  const popup = hasEnded.value ? open("about:blank", "media-sign-in", "popup,width=480,height=640") : null;
  try {
    const attempt: Attempt = { state: random(), verifier: random() };
    const challenge = new Uint8Array(
      await crypto.subtle.digest("SHA-256", new TextEncoder().encode(attempt.verifier)),
    );
    const address = new URL((await discover(oidc.issuer)).authorization_endpoint);
    const parameters = {
      response_type: "code",
      client_id: oidc.client_id,
      redirect_uri: REDIRECT(),
      scope: oidc.scopes,
      state: attempt.state,
      code_challenge: base64url(challenge),
      code_challenge_method: "S256",
    };
    for (const [name, value] of Object.entries(parameters)) address.searchParams.set(name, value);
    if (popup) popup.sessionStorage.removeItem(PENDING); // a popup starts with a copy of this tab's
    sessionStorage.setItem(PENDING, JSON.stringify(attempt));
    if (popup) popup.location.href = address.href;
    else location.assign(address.href);
  } catch (error) {
    popup?.close();
    failure.value = error instanceof Error ? error.message : String(error);
  }
}

async function exchange(answer: Answer): Promise<void> {
  const attempt = JSON.parse(sessionStorage.getItem(PENDING) ?? "null") as Attempt | null;
  if (attempt?.state !== answer.state) return; // another tab's
  sessionStorage.removeItem(PENDING);
  try {
    const oidc = (settings.value ??= await loadSettings()).oidc;
    if (answer.code === null || !oidc) throw new Error(answer.error ?? "");
    const reply = await fetch((await discover(oidc.issuer)).token_endpoint, {
      method: "POST",
      credentials: "omit",
      body: new URLSearchParams({
        grant_type: "authorization_code",
        code: answer.code,
        redirect_uri: REDIRECT(),
        client_id: oidc.client_id,
        code_verifier: attempt.verifier,
      }),
    });
    const body = (await reply.json()) as { access_token?: string; error?: string; error_description?: string };
    if (!reply.ok || !body.access_token) throw new Error(body.error_description ?? body.error ?? `${reply.status}`);
    signIn(body.access_token);
  } catch (error) {
    failure.value = error instanceof Error ? error.message : String(error);
  }
}
