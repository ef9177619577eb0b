/** Where one is, in the page's fragment, so that back, reload and a bookmark work: `#/rooms/lobby/files/med-…?at=12`. */

export interface Place {
  /** A room, or null for one's files. */
  room: string | null;
  jobs: boolean;
  /** The file that is open. */
  file: string | null;
  /** Seconds into the recording that is open. */
  at: number | null;
}

export function placeIn(fragment: string): Place {
  const [path = "", query = ""] = fragment.replace(/^#/, "").split("?", 2);
  const parts = path.split("/").map(decoded);
  const after = (word: string): string | null => {
    const index = parts.indexOf(word);
    return index < 0 ? null : parts[index + 1] || null;
  };
  const at = Number(new URLSearchParams(query).get("at") ?? NaN);
  return { room: after("rooms"), jobs: parts.includes("jobs"), file: after("files"), at: Number.isFinite(at) ? at : null };
}

export function fragmentOf(place: Partial<Place>): string {
  let path = "#/";
  if (place.jobs) path += "jobs/";
  if (place.room) path += `rooms/${encodeURIComponent(place.room)}/`;
  if (place.file) path += `files/${encodeURIComponent(place.file)}`;
  return (path === "#/" ? path : path.replace(/\/$/, "")) + (place.at != null ? `?at=${place.at}` : "");
}

function decoded(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}
