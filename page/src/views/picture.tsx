/** A picture: its thumbnail first, then itself; zoomed by wheel, keys, fingers or buttons. */
import { useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import * as api from "../api.ts";
import type { FileInfo } from "../api.ts";
import { text } from "../text/index.ts";
import * as thumbnails from "../thumbnails.ts";
import { FITTED, fitted, panned, zoomed, type Zoom } from "../zoom.ts";
import { Icon } from "./icons.tsx";
import { blur } from "./thumb.tsx";

const STEP = 1.5;
/** Types of pictures that have no part one can see through. */
const OPAQUE = /^image\/(jpeg|heic|heif|bmp|tiff|x-)/;

export function Picture({ file }: { file: FileInfo }) {
  const t = text.value;
  const box = useRef<HTMLDivElement>(null);
  const preview = useSignal<string | null>(thumbnails.known(file.media_id, 320) ?? null);
  const full = useSignal<string | null>(null);
  const isLoaded = useSignal(false);
  const wrong = useSignal<string | null>(null);
  const zoom = useSignal<Zoom>(FITTED);
  const size = useSignal({ width: 0, height: 0 });
  const pointers = useRef(new Map<number, { x: number; y: number }>());
  const own = { width: file.width ?? 1024, height: file.height ?? 1024 };
  const fit = fitted(own, size.value);

  useEffect(() => {
    const wanted = new AbortController();
    if (file.thumbnail_id) thumbnails.load(file.media_id, 1024, wanted.signal).then((url) => (preview.value = url)).catch(() => {});
    wrong.value = null;
    api.sign(file.media_id).then(({ url }) => (full.value = url)).catch((error: Error) => (wrong.value = error.message));
    return () => wanted.abort();
  }, [file.media_id, file.scan_status]);

  useEffect(() => {
    const element = box.current!;
    const measure = (): void => {
      size.value = { width: element.clientWidth, height: element.clientHeight };
    };
    const observer = new ResizeObserver(measure);
    observer.observe(element);
    measure();
    const keys = (event: KeyboardEvent): void => {
      if (document.querySelector("dialog[open]") || event.ctrlKey || event.metaKey) return;
      if (event.key === "+" || event.key === "=") by(STEP);
      else if (event.key === "-") by(1 / STEP);
      else if (event.key === "0") zoom.value = FITTED;
      else if (zoom.value.scale > 1 && event.key.startsWith("Arrow")) {
        const [x, y] = { ArrowLeft: [80, 0], ArrowRight: [-80, 0], ArrowUp: [0, 80], ArrowDown: [0, -80] }[event.key] ?? [0, 0];
        pan(x!, y!);
        event.stopPropagation();
      } else return;
      event.preventDefault();
    };
    addEventListener("keydown", keys, true);
    return () => {
      observer.disconnect();
      removeEventListener("keydown", keys, true);
    };
  }, []);

  const pan = (x: number, y: number): void => {
    zoom.value = panned(zoom.value, x, y, fitted(own, size.value), size.value);
  };
  const by = (factor: number, x = 0, y = 0): void => {
    zoom.value = zoomed(zoom.value, factor, x, y);
    pan(0, 0);
  };
  const fromMiddle = (event: { clientX: number; clientY: number }): [number, number] => {
    const at = box.current!.getBoundingClientRect();
    return [event.clientX - at.left - at.width / 2, event.clientY - at.top - at.height / 2];
  };
  const moved = (event: PointerEvent): void => {
    const before = pointers.current.get(event.pointerId);
    if (!before) return;
    const now = { x: event.clientX, y: event.clientY };
    const other = [...pointers.current].find(([id]) => id !== event.pointerId)?.[1];
    pointers.current.set(event.pointerId, now);
    if (!other) return pan(now.x - before.x, now.y - before.y);
    const distance = (point: { x: number; y: number }): number => Math.hypot(point.x - other.x, point.y - other.y);
    if (distance(before) > 0) by(distance(now) / distance(before), ...fromMiddle({ clientX: (now.x + other.x) / 2, clientY: (now.y + other.y) / 2 }));
  };
  const { scale, x, y } = zoom.value;
  const style = {
    inlineSize: `${fit.width}px`,
    blockSize: `${fit.height}px`,
    transform: `translate(${x}px, ${y}px) scale(${scale})`,
  };
  const shown = isLoaded.value ? null : preview.value ?? (file.thumbhash ? blur(file.thumbhash) : null);
  return (
    <div class="picture">
      <div ref={box} class={scale > 1 ? "canvas zoomed" : "canvas"}
        onWheel={(event) => {
          event.preventDefault();
          by(Math.exp(-event.deltaY / 400), ...fromMiddle(event));
        }}
        onDblClick={(event) => (scale > 1 ? (zoom.value = FITTED) : by(2.5, ...fromMiddle(event)))}
        onPointerDown={(event) => {
          pointers.current.set(event.pointerId, { x: event.clientX, y: event.clientY });
          event.currentTarget.setPointerCapture(event.pointerId);
        }}
        onPointerMove={moved}
        onPointerUp={(event) => pointers.current.delete(event.pointerId)}
        onPointerCancel={(event) => pointers.current.delete(event.pointerId)}>
        <div class={OPAQUE.test(file.mime_type) || !full.value ? "sheet" : "sheet clear"} style={style}>
          {shown && <img class="under-full" src={shown} alt={full.value ? "" : t.pictureOf(file.filename)} draggable={false} />}
          {full.value && <img src={full.value} alt={t.pictureOf(file.filename)} draggable={false} data-testid="full" referrerpolicy="no-referrer"
            onLoad={() => (isLoaded.value = true)} onError={() => {
              full.value = null;
              wrong.value = file.thumbnail_id ? t.noPicture : t.noPictureAtAll;
            }} />}
        </div>
      </div>
      {wrong.value !== null && <p class="stage-said" role="status">{wrong.value}</p>}
      {(full.value !== null || shown !== null) && <div class="zoom" role="group">
        <button class="plain" aria-label={t.zoomOut} title={t.zoomOut} disabled={scale === 1} onClick={() => by(1 / STEP)}><Icon name="minus" /></button>
        <span aria-live="polite">{Math.round(scale * (fit.width / own.width) * 100) || 100} %</span>
        <button class="plain" aria-label={t.zoomIn} title={t.zoomIn} onClick={() => by(STEP)}><Icon name="plus" /></button>
        <button class="plain" aria-label={t.zoomFit} title={t.zoomFit} disabled={scale === 1} onClick={() => (zoom.value = FITTED)}><Icon name="fit" /></button>
      </div>}
    </div>
  );
}
