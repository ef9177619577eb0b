/** What is said: it follows the player, and each sentence leads to its moment. */
import { useSignal } from "@preact/signals";
import { Fragment } from "preact";
import { useEffect, useRef } from "preact/hooks";
import { asked } from "../actions.ts";
import * as api from "../api.ts";
import type { FileInfo, Job, Segment, Word } from "../api.ts";
import { clock } from "../format.ts";
import * as jobs from "../jobs.ts";
import { text } from "../text/index.ts";
import { complain } from "../toasts.ts";
import { segmentAt } from "../transcript.ts";
import { Icon } from "./icons.tsx";
import type { Playing } from "./player.tsx";
import { Bar } from "./uploads.tsx";

export interface Heard {
  /** The newest job; null: none, undefined: not known yet. */
  job: Job | null | undefined;
  captions: string | null;
}

/** The transcript of a file, or the progress of the job that makes it. */
export function useTranscript(file: FileInfo | null, isWanted: boolean): Heard {
  const job = useSignal<Job | null | undefined>(undefined);
  const captions = useSignal<string | null>(null);
  const id = file?.media_id;
  const listed = jobs.jobs.value.find((each) => each.media_id === id);
  const mark = listed ? `${listed.job_id} ${listed.status} ${listed.progress} ${listed.queue_position}` : "";
  useEffect(() => {
    if (!isWanted || id === undefined) return;
    let isOver = false;
    void (async () => {
      const found = listed ?? (await jobs.jobOf(id));
      const whole = found?.status === "completed" ? await api.job(found.job_id) : found;
      if (isOver) return;
      job.value = whole;
      if (whole?.status === "completed" && (whole.segments?.length ?? 0) > 0) {
        const vtt = await api.subtitles(whole.job_id);
        if (!isOver) captions.value = URL.createObjectURL(new Blob([vtt], { type: "text/vtt" }));
      }
    })().catch((error: unknown) => {
      if (!isOver) complain(error);
    });
    return () => {
      isOver = true;
    };
  }, [id, isWanted, mark]);
  useEffect(() => {
    const url = captions.value;
    return () => {
      if (url) URL.revokeObjectURL(url);
    };
  }, [captions.value]);
  useEffect(() => {
    if (!job.value || !jobs.isUnderWay(job.value)) return;
    const timer = setInterval(() => jobs.refresh().catch(() => {}), 1500);
    return () => clearInterval(timer);
  }, [job.value?.status]);
  return { job: job.value, captions: captions.value };
}

export function Transcript({ file, heard, playing }: { file: FileInfo; heard: Heard; playing: Playing }) {
  const t = text.value;
  const { job } = heard;
  if (job === undefined) return <p class="quiet-text">{t.loading}</p>;
  const offer = <button onClick={() => (asked.value = { dialog: "transcribe", file })}><Icon name="words" />{t.transcribe}</button>;
  if (job === null || job.status === "cancelled") return <div class="offer"><p class="quiet-text">{t.noTranscript}</p>{offer}</div>;
  if (job.status === "failed") return <div class="offer"><p class="wrong">{job.error?.detail}</p>{offer}</div>;
  if (jobs.isUnderWay(job)) {
    const percent = Math.round(100 * (job.progress ?? 0));
    const said = job.waits_for ?? (job.status === "running" ? t.jobProgress(percent) : (job.queue_position ?? 1) > 1 ? t.jobPosition(job.queue_position!) : t.jobNext);
    return (
      <div class="offer"><p role="status">{said}</p><Bar label={t.transcript} part={job.progress ?? 0} />
        <button onClick={() => jobs.cancel(job).catch(complain)}>{t.jobCancel}</button></div>
    );
  }
  const segments = job.segments ?? [];
  if (segments.length === 0) return <div class="offer"><p class="quiet-text">{t.noSpeech}</p></div>;
  return <Segments job={job} playing={playing} />;
}

function Segments({ job, playing }: { job: Job; playing: Playing }) {
  const t = text.value;
  const box = useRef<HTMLOListElement>(null);
  const segments = job.segments!;
  const seconds = playing.seconds.value;
  const now = segmentAt(segments, seconds);
  useEffect(() => {
    const [list, line] = [box.current, box.current?.children[now] as HTMLElement | undefined];
    if (!list || !line || list.contains(document.activeElement) || seconds === 0) return;
    const isCalm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    list.scrollTo({ top: line.offsetTop - list.clientHeight / 3, behavior: isCalm ? "instant" : "smooth" });
  }, [now]);
  return (
    <ol class="said" ref={box} lang={job.language ?? undefined} data-testid="transcript">
      {segments.map((segment, index) => (
        <li key={segment.id}>
          <button class={index === now ? "segment now" : "segment"} aria-current={index === now ? "true" : undefined} onClick={() => (playing.wanted.value = segment.start)}>
            <span class="time"><span class="unseen">{t.playFrom(clock(segment.start))}</span><span aria-hidden="true">{clock(segment.start)}</span></span>
            <span dir="auto">{index === now && segment.words?.length
              ? wordsOf(segment).map(([before, word], at) => <Fragment key={at}>{before}<span class={seconds + 0.05 >= word.start && seconds <= word.end + 0.1 ? "word now" : "word"}>{word.word.trim()}</span></Fragment>)
              : segment.text.trim()}</span>
          </button>
        </li>
      ))}
    </ol>
  );
}

/** The words of a segment, each with what stands before it in the text: a space in most languages, in some nothing. */
function wordsOf(segment: Segment): [string, Word][] {
  let at = 0;
  return segment.words!.map((word) => {
    const found = segment.text.indexOf(word.word.trim(), at);
    const before = found < 0 ? " " : segment.text.slice(at, found);
    if (found >= 0) at = found + word.word.trim().length;
    return [before, word];
  });
}
