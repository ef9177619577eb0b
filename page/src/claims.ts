/** What a token says of its bearer. Nothing here is verified: the api does that, and decides. */

export interface Claims {
  tenant: string;
  subject: string;
  /** `["*"]`: every room. */
  rooms: string[];
  scopes: Set<string>;
  /** Milliseconds since 1970. */
  expires: number | null;
}

/** Claims as the platform's own tokens name them. Issuers may name them otherwise: then they are empty here. */
export function claimsOf(token: string): Claims {
  const body = payload(token);
  const audience = Array.isArray(body.aud) ? body.aud[0] : body.aud;
  return {
    tenant: typeof audience === "string" ? audience : "",
    subject: typeof body.sub === "string" ? body.sub : "",
    rooms: words(body.rooms),
    scopes: new Set(words(body.scope ?? body.scp)),
    expires: typeof body.exp === "number" ? body.exp * 1000 : null,
  };
}

function words(claim: unknown): string[] {
  if (typeof claim === "string") return claim.split(" ").filter(Boolean);
  return Array.isArray(claim) ? claim.filter((each): each is string => typeof each === "string") : [];
}

function payload(token: string): Record<string, unknown> {
  try {
    const part = token.split(".")[1]!.replace(/-/g, "+").replace(/_/g, "/");
    const bytes = Uint8Array.from(atob(part), (character) => character.charCodeAt(0));
    const body: unknown = JSON.parse(new TextDecoder().decode(bytes));
    return typeof body === "object" && body !== null ? (body as Record<string, unknown>) : {};
  } catch {
    return {};
  }
}

function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return "";
  }
}

/** The token in `text`: a fragment or link with `#token=…`, or a token alone. */
export function tokenIn(text: string): string | null {
  const fragment = text.indexOf("#token=");
  const found = fragment < 0 ? text.trim() : decoded(text.slice(fragment + "#token=".length).trim());
  return /^[\w-]+\.[\w-]+\.[\w-]+$/.test(found) ? found : null;
}
