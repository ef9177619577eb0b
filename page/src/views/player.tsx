/** Film and sound, by a signed URL that a player asks for ranges of, with captions where there is a transcript. */
import { useSignal, type Signal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import * as api from "../api.ts";
import type { FileInfo, Segment } from "../api.ts";
import { kindOf } from "../format.ts";
import { text } from "../text/index.ts";
import { isSaid, segmentAt } from "../transcript.ts";
import { Icon } from "./icons.tsx";

/** A URL that failed this soon after it was signed has not expired. */
const FRESH = 60_000;

export interface Playing {
  seconds: Signal<number>;
  /** Set to play from there. */
  wanted: Signal<number | null>;
}

export function Player({ file, playing, segments, captions, language }: {
  file: FileInfo; playing: Playing; segments: Segment[]; captions: string | null; language: string;
}) {
  const t = text.value;
  const media = useRef<HTMLVideoElement & HTMLAudioElement>(null);
  const url = useSignal<string | null>(null);
  const wrong = useSignal<string | null>(null);
  const signedAt = useRef(0);
  const resume = useRef<{ at: number; plays: boolean } | null>(null);

  const sign = (): void => {
    signedAt.current = Date.now();
    api.sign(file.media_id)
      .then((signed) => {
        url.value = signed.url;
        wrong.value = null;
      })
      .catch((error: Error) => (wrong.value = error.message));
  };

  useEffect(sign, [file.media_id, file.scan_status]);

  useEffect(() => {
    let frame = 0;
    const follow = (): void => {
      const element = media.current;
      if (element && Math.abs(element.currentTime - playing.seconds.value) > 0.04) playing.seconds.value = element.currentTime;
      frame = requestAnimationFrame(follow);
    };
    follow();
    return () => cancelAnimationFrame(frame);
  }, []);

  const wanted = playing.wanted.value;
  useEffect(() => {
    const element = media.current;
    if (wanted === null || !element) return;
    playing.wanted.value = null;
    if (element.readyState === 0) resume.current = { at: wanted, plays: true };
    else {
      element.currentTime = wanted;
      element.play().catch(() => {});
    }
  }, [wanted, url.value]);

  const failed = (): void => {
    const element = media.current;
    if (Date.now() - signedAt.current < FRESH) {
      wrong.value ??= t.noPreview;
      return;
    }
    // The URL has expired while the film was paused: another one, and on from the same moment.
    resume.current = { at: element?.currentTime ?? 0, plays: !(element?.paused ?? true) };
    sign();
  };

  const loaded = (): void => {
    const { at, plays } = resume.current ?? { at: 0, plays: false };
    resume.current = null;
    if (at > 0) media.current!.currentTime = at;
    if (plays) media.current!.play().catch(() => {});
  };

  const index = segmentAt(segments, playing.seconds.value);
  const said = segments[index];
  const caption = said && isSaid(said, playing.seconds.value) ? said.text.trim() : "";
  const isFilm = kindOf(file.mime_type) === "video";
  const shared = {
    ref: media, src: url.value ?? undefined, controls: true, preload: "metadata" as const, "aria-label": t.player(file.filename),
    onError: failed, onLoadedMetadata: loaded, "data-testid": "player",
  };
  if (wrong.value !== null) return <p class="stage-said alone" role="status">{wrong.value}</p>;
  return isFilm ? (
    <video {...shared} class="film" playsinline>
      {captions && <track key={captions} kind="captions" src={captions} srclang={language} label={t.captions} default />}
    </video>
  ) : (
    <div class="sound">
      <span class={caption || segments.length > 0 ? "sound-mark small" : "sound-mark"}><Icon name="audio" /></span>
      {segments.length > 0 && <p class="caption" lang={language} dir="auto" data-testid="caption">{caption || "\u00a0"}</p>}
      <audio {...shared}>{captions && <track key={captions} kind="captions" src={captions} srclang={language} label={t.captions} default />}</audio>
    </div>
  );
}
