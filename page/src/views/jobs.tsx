import { useEffect } from "preact/hooks";
import type { Job } from "../api.ts";
import * as files from "../files.ts";
import { ago } from "../format.ts";
import * as jobs from "../jobs.ts";
import { openFile } from "../place.ts";
import { text } from "../text/index.ts";
import { complain } from "../toasts.ts";
import { Icon } from "./icons.tsx";
import { names } from "./names.ts";
import { Bar } from "./uploads.tsx";

const POLL = 1500;

export function Jobs() {
  const t = text.value;
  useEffect(() => {
    const timer = setInterval(() => jobs.underWay.value.length > 0 && !document.hidden && jobs.refresh().catch(() => {}), POLL);
    return () => clearInterval(timer);
  }, []);
  const all = jobs.jobs.value;
  return (
    <section class="jobs scroll" aria-labelledby="jobs-title">
      <div class="toolbar"><h2 id="jobs-title">{t.jobs}</h2>
        <p class="quiet-text" role="status">{jobs.underWay.value.length > 0 ? t.jobsRunning(jobs.underWay.value.length) : ""}</p></div>
      {all.length === 0 ? (
        <div class="empty"><span class="empty-mark"><Icon name="jobs" /></span><h3>{t.noJobsTitle}</h3><p>{t.noJobsText}</p></div>
      ) : <ul class="job-list">{all.map((job) => <Row key={job.job_id} job={job} />)}</ul>}
    </section>
  );
}

function Row({ job }: { job: Job }) {
  const t = text.value;
  const id = job.media_id ?? null;
  const name = id === null ? t.jobKind[job.kind] : (files.find(id)?.filename ?? names(id));
  const percent = Math.round(100 * (job.progress ?? 0));
  const said =
    job.waits_for ? job.waits_for
    : job.status === "queued" ? (job.queue_position == null ? "" : job.queue_position <= 1 ? t.jobNext : t.jobPosition(job.queue_position))
    : job.status === "running" ? t.jobProgress(percent)
    : job.error?.detail ?? "";
  return (
    <li class={`job ${job.status}`} data-status={job.status}>
      <span class="job-icon"><Icon name="words" /></span>
      <div class="job-body">
        <p class="job-name">
          {id ? <a href={`#/jobs/files/${id}`} dir="auto" onClick={(event) => {
            event.preventDefault();
            openFile(id);
          }}>{name}</a> : <span>{name}</span>}
          <span class={`chip ${job.status}`}>{t.jobState[job.status]}</span>
        </p>
        {job.status === "running" && <Bar label={`${t.jobKind[job.kind]}: ${name}`} part={job.progress ?? 0} />}
        <p class="job-said">{[t.jobKind[job.kind], ago(job.created_at, Date.now(), t.locale), said].filter(Boolean).join(" · ")}</p>
      </div>
      {jobs.isUnderWay(job) && <button class="quiet" onClick={() => jobs.cancel(job).catch(complain)} aria-label={`${t.jobCancel}: ${name}`}>{t.jobCancel}</button>}
    </li>
  );
}
