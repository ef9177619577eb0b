/** The caller's jobs, and which of them has the transcript of a file. */
import { computed, signal } from "@preact/signals";
import * as api from "./api.ts";
import type { Job } from "./api.ts";

export const jobs = signal<Job[]>([]);
export const isUnderWay = (job: Job): boolean => job.status === "queued" || job.status === "running";
export const underWay = computed(() => jobs.value.filter(isUnderWay));

let onEnded: (job: Job) => void = () => {};
export const whenEnded = (call: (job: Job) => void): void => {
  onEnded = call;
};

export async function refresh(): Promise<void> {
  const { data } = await api.listJobs({ limit: 50 });
  const before = new Map(jobs.value.map((job) => [job.job_id, job]));
  const now = data.filter((job) => job.kind === "transcribe");
  jobs.value = now;
  for (const job of now) {
    const old = before.get(job.job_id);
    if (old && isUnderWay(old) && !isUnderWay(job)) onEnded(job);
  }
}

export async function cancel(job: Job): Promise<void> {
  const now = await api.cancel(job.job_id);
  jobs.value = jobs.value.map((each) => (each.job_id === now.job_id ? now : each));
}

/** The newest job that has transcribed the file, or is to; null if there is none of yours. */
export async function jobOf(file: string): Promise<Job | null> {
  let newest: Job | null = null;
  for (let cursor: string | null = null, pages = 0; pages < 10; pages += 1) {
    const found: api.Page<Job> = await api.listJobs({ limit: 200, cursor });
    for (const job of found.data) {
      if (job.media_id !== file || job.kind !== "transcribe") continue;
      if (job.status === "completed") return newest && isUnderWay(newest) ? newest : job;
      newest ??= job;
    }
    cursor = found.next_cursor;
    if (cursor === null) break;
  }
  return newest;
}
