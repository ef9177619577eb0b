import { useEffect, useState } from "preact/hooks";
import { thumbHashToDataURL } from "thumbhash";
import type { FileInfo } from "../api.ts";
import { clock, kindOf, typeName } from "../format.ts";
import * as thumbnails from "../thumbnails.ts";
import { Icon } from "./icons.tsx";

const blurred = new Map<string, string>();

/** A ThumbHash as a picture's address. */
export function blur(hash: string): string {
  let url = blurred.get(hash);
  if (url === undefined) {
    url = thumbHashToDataURL(Uint8Array.from(atob(hash), (character) => character.charCodeAt(0)));
    if (blurred.size > 2000) blurred.clear();
    blurred.set(hash, url);
  }
  return url;
}

/** What stands for a file: its thumbnail, blurred until it has come, or its type. `pixels`: the box's longer side. */
export function Thumb({ file, pixels }: { file: FileInfo; pixels: number }) {
  const size = thumbnails.sizeFor(pixels);
  const { media_id: id, thumbnail_id, thumbhash, scan_status } = file;
  const [url, setUrl] = useState(() => thumbnails.known(id, size));
  useEffect(() => {
    if (!thumbnail_id || url !== undefined) return;
    const wanted = new AbortController();
    // What is only scrolled past is not fetched.
    const timer = setTimeout(() => {
      thumbnails.load(id, size, wanted.signal).then(setUrl).catch(() => {});
    }, 60);
    return () => {
      clearTimeout(timer);
      wanted.abort();
    };
  }, [id, size, thumbnail_id, scan_status]);
  const kind = kindOf(file.mime_type);
  const isPicture = Boolean(thumbnail_id);
  return (
    <span class={`thumb ${kind}`} data-loaded={url !== undefined || undefined}>
      {isPicture && thumbhash && url === undefined && <img class="blur" src={blur(thumbhash)} alt="" />}
      {url !== undefined && <img src={url} alt="" decoding="async" draggable={false} />}
      {!isPicture && <span class="thumb-type"><Icon name={kind} /><span>{typeName(file.mime_type, file.filename)}</span></span>}
      {isPicture && !thumbhash && url === undefined && <span class="thumb-type"><Icon name={kind} /></span>}
      {file.duration != null && <span class="thumb-length">{kind === "video" && <Icon name="play" />}{clock(file.duration)}</span>}
    </span>
  );
}
